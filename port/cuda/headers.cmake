# Cleat: what port/cuda and port/nccl need to be built. SPDX-License-Identifier:
# Apache-2.0
#
# The headers cuda.h and nccl.h, and nothing else: the libraries are
# loaded at run time. Makes the target cleat::cuda_headers and sets
# cleat_missing to those that are not there, and cleat_cuda_hint to a text that
# says where they come from. CUDA_PATH, CUDA_HOME or
# CLEAT_CUDA_INCLUDE (and CLEAT_NCCL_INCLUDE) say where to look. Included by
# Cleat's build, and by the installed package, which needs no headers.
set(cleat_missing)
# Debian's main archive has neither.
set(cleat_cuda_hint " (of NVIDIA's CUDA toolkit and NCCL, which tools/setup \
does not install; CUDA_PATH in the environment or -DCLEAT_CUDA_INCLUDE= and \
-DCLEAT_NCCL_INCLUDE= say in which folders they are)")
if(NOT EXISTS ${CMAKE_CURRENT_LIST_DIR}/cleat-targets.cmake)
  set(cleat_cuda_folders)
  foreach(cleat_folder IN ITEMS "$ENV{CUDA_PATH}" "$ENV{CUDA_HOME}"
                                /usr/local/cuda)
    if(cleat_folder)
      list(APPEND cleat_cuda_folders ${cleat_folder}/include)
    endif()
  endforeach()
  find_path(CLEAT_CUDA_INCLUDE cuda.h HINTS ${cleat_cuda_folders})
  find_path(CLEAT_NCCL_INCLUDE nccl.h HINTS ${cleat_cuda_folders})
  mark_as_advanced(CLEAT_CUDA_INCLUDE CLEAT_NCCL_INCLUDE)

  set(cleat_cuda_version 0)
  if(EXISTS "${CLEAT_CUDA_INCLUDE}/cuda.h")
    file(STRINGS ${CLEAT_CUDA_INCLUDE}/cuda.h cleat_line
         REGEX "^#define CUDA_VERSION +[0-9]+")
    string(REGEX MATCH "[0-9]+$" cleat_cuda_version "${cleat_line}")
  endif()
  if(cleat_cuda_version LESS 12000)
    list(APPEND cleat_missing "cuda.h (CUDA 12.0)")
  endif()
  set(cleat_nccl_code 0)
  if(EXISTS "${CLEAT_NCCL_INCLUDE}/nccl.h")
    file(STRINGS ${CLEAT_NCCL_INCLUDE}/nccl.h cleat_line
         REGEX "^#define NCCL_VERSION_CODE +[0-9]+")
    string(REGEX MATCH "[0-9]+$" cleat_nccl_code "${cleat_line}")
  endif()
  if(cleat_nccl_code LESS 22807)
    list(APPEND cleat_missing "nccl.h (NCCL 2.28.7)")
  endif()
endif()

if(NOT cleat_missing AND NOT TARGET cleat::cuda_headers)
  add_library(cleat::cuda_headers INTERFACE IMPORTED GLOBAL)
  set(cleat_folders)
  foreach(cleat_folder IN ITEMS CUDA NCCL)
    if(CLEAT_${cleat_folder}_INCLUDE)
      list(APPEND cleat_folders ${CLEAT_${cleat_folder}_INCLUDE})
    endif()
  endforeach()
  list(REMOVE_DUPLICATES cleat_folders)
  set_target_properties(cleat::cuda_headers PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${cleat_folders}"
    INTERFACE_LINK_LIBRARIES "${CMAKE_DL_LIBS}")
endif()
