# Cleat: the libraries that port/mcp needs. SPDX-License-Identifier: Apache-2.0
#
# libcurl, for HTTP: 7.87 or later, for a name that is slow to be found must
# not hold us up (CURLOPT_QUICK_EXIT). libfyaml, for YAML. Sets
# cleat_missing to those that are not there. Included by Cleat's build and
# by the installed package.
set(cleat_missing)
if(NOT TARGET CURL::libcurl)
  find_package(CURL 7.87 QUIET)
  if(TARGET CURL::libcurl)
    set_target_properties(CURL::libcurl PROPERTIES IMPORTED_GLOBAL TRUE)
  endif()
endif()
if(NOT TARGET CURL::libcurl)
  list(APPEND cleat_missing libcurl)
endif()
if(NOT TARGET cleat::fyaml)
  find_path(CLEAT_FYAML_INCLUDE libfyaml.h)
  find_library(CLEAT_FYAML_LIBRARY fyaml)
  mark_as_advanced(CLEAT_FYAML_INCLUDE CLEAT_FYAML_LIBRARY)
  if(CLEAT_FYAML_INCLUDE AND CLEAT_FYAML_LIBRARY)
    add_library(cleat::fyaml UNKNOWN IMPORTED GLOBAL)
    set_target_properties(cleat::fyaml PROPERTIES
      IMPORTED_LOCATION ${CLEAT_FYAML_LIBRARY}
      INTERFACE_INCLUDE_DIRECTORIES ${CLEAT_FYAML_INCLUDE})
  endif()
endif()
if(NOT TARGET cleat::fyaml)
  list(APPEND cleat_missing libfyaml)
endif()
