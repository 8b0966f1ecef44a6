# Cleat: the libraries that port/mcp needs. SPDX-License-Identifier: Apache-2.0
#
# libcurl, for HTTP: 7.87 or later, for a name that is slow to be found must
# not hold us up (CURLOPT_QUICK_EXIT). libfyaml, for YAML. Makes the targets
# cleat::curl and cleat::fyaml, and sets cleat_missing to those that are not
# there. A host that has its own sets CLEAT_CURL_LIBRARY and the like. Included
# by Cleat's build and by the installed package.
set(cleat_missing)

find_path(CLEAT_CURL_INCLUDE curl/curl.h)
find_library(CLEAT_CURL_LIBRARY curl)
find_path(CLEAT_FYAML_INCLUDE libfyaml.h)
find_library(CLEAT_FYAML_LIBRARY fyaml)
mark_as_advanced(CLEAT_CURL_INCLUDE CLEAT_CURL_LIBRARY CLEAT_FYAML_INCLUDE
                 CLEAT_FYAML_LIBRARY)

set(cleat_curl_version 0)
if(CLEAT_CURL_LIBRARY AND EXISTS "${CLEAT_CURL_INCLUDE}/curl/curlver.h")
  file(STRINGS ${CLEAT_CURL_INCLUDE}/curl/curlver.h cleat_line
       REGEX "^#define LIBCURL_VERSION +\"[0-9.]+")
  string(REGEX MATCH "[0-9]+\\.[0-9.]+" cleat_curl_version "${cleat_line}")
endif()
if(cleat_curl_version VERSION_LESS 7.87)
  list(APPEND cleat_missing "libcurl (7.87)")
endif()
if(NOT CLEAT_FYAML_INCLUDE OR NOT CLEAT_FYAML_LIBRARY)
  list(APPEND cleat_missing libfyaml)
endif()

if(NOT cleat_missing)
  foreach(cleat_library IN ITEMS curl fyaml)
    string(TOUPPER ${cleat_library} cleat_upper)
    if(NOT TARGET cleat::${cleat_library})
      add_library(cleat::${cleat_library} UNKNOWN IMPORTED GLOBAL)
      set_target_properties(cleat::${cleat_library} PROPERTIES
        IMPORTED_LOCATION ${CLEAT_${cleat_upper}_LIBRARY}
        INTERFACE_INCLUDE_DIRECTORIES ${CLEAT_${cleat_upper}_INCLUDE})
    endif()
  endforeach()
endif()
