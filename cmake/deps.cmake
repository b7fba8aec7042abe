# Everything Aspis stands on, in one table. Nothing is downloaded here: the
# set-up script installs the packages and unzips the engine wheel.
#
#   name           licence        Debian package        Homebrew         used by
#   MLX 0.32.4     MIT            (PyPI wheel)          (PyPI wheel)     ops and all above
#   Highway        Apache-2.0     libhwy-dev            highway          simd, kernels
#   oneDNN 2.6|3   Apache-2.0     libdnnl-dev           (Accelerate)     ops/linear
#   OpenMP         compiler       (libgomp)             -                ops/linear (to keep oneDNN on one thread)
#   fmt            MIT            libfmt-dev            fmt              everywhere, private
#   nlohmann/json  MIT            nlohmann-json3-dev    nlohmann-json    io, report, train, cli
#   CLI11          BSD-3-Clause   libcli11-dev          cli11            cli
#   libjpeg-turbo  IJG, BSD-3     libjpeg62-turbo-dev   jpeg-turbo       data
#   libpng         libpng         libpng-dev            libpng           data
#   zlib           Zlib           zlib1g-dev            (system)         data
#   doctest        MIT            doctest-dev           doctest          tests

find_package(PkgConfig REQUIRED)
pkg_check_modules(HWY REQUIRED IMPORTED_TARGET GLOBAL libhwy)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(Threads REQUIRED)
find_package(ZLIB REQUIRED)
find_package(PNG REQUIRED)
find_package(JPEG REQUIRED)
if(APPLE)
  find_library(ASPIS_ACCELERATE Accelerate REQUIRED)
else()
  # Debian's dnnl config looks for OpenCL headers even in CPU-only use, so the
  # library is found directly; both the 2.6 and the 3.x line are accepted.
  find_path(DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.hpp REQUIRED)
  find_library(DNNL_LIBRARY dnnl REQUIRED)
  add_library(aspis_dnnl INTERFACE)
  target_include_directories(aspis_dnnl SYSTEM INTERFACE $<BUILD_INTERFACE:${DNNL_INCLUDE_DIR}>)
  target_link_libraries(aspis_dnnl INTERFACE ${DNNL_LIBRARY})
endif()

if(ASPIS_WITH_MLX)
  set(ASPIS_MLX_VERSION 0.32.4)
  if(NOT MLX_ROOT)
    set(MLX_ROOT ${PROJECT_SOURCE_DIR}/.deps/engine/mlx)
  endif()
  if(MLX_DIR AND NOT MLX_DIR MATCHES "^${MLX_ROOT}")
    message(FATAL_ERROR "MLX_DIR (${MLX_DIR}) is cached and disagrees with MLX_ROOT (${MLX_ROOT}): "
      "remove the build folder or pass -UMLX_DIR.")
  endif()
  find_package(MLX ${ASPIS_MLX_VERSION} EXACT CONFIG QUIET HINTS ${MLX_ROOT})
  if(NOT MLX_FOUND)
    if(MLX_CONSIDERED_VERSIONS)
      set(got "version ${MLX_CONSIDERED_VERSIONS} at ${MLX_CONSIDERED_CONFIGS}")
    else()
      set(got "none at ${MLX_ROOT}")
    endif()
    message(FATAL_ERROR "Aspis needs the engine MLX ${ASPIS_MLX_VERSION} exactly; found ${got}. "
      "Run tools/setup.sh, or pass -DMLX_ROOT=<folder of the unzipped mlx-cpu ${ASPIS_MLX_VERSION} wheel>/mlx.")
  endif()
endif()
