# aspis_component(name
#   SOURCES a.cc ...        the library; none makes it header-only
#   DEPS base simd ...      other components (without the aspis_ prefix), public
#   LIBS fmt::fmt ...       libraries from cmake/deps.cmake, private
#   PUBLIC_LIBS mlx ...     libraries that the component's headers expose
#   TESTS a_test.cc ...     one doctest program, one ctest entry
#   TEST_DEPS ...           further components that only the tests use
#   LABELS slow ...         ctest labels of the tests
#   WITH_MLX)               left out when ASPIS_WITH_MLX is off
#
# One call per folder. A folder's DEPS are the whole statement of what it may
# include; see ARCHITECTURE.md for the directions that are allowed.

function(aspis_compile_options target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC 12 warns wrongly about std::string concatenation (GCC bug 105651).
    target_compile_options(${target} PRIVATE -Wno-restrict)
    if(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
      # It also takes vectors that are filled under one condition and read under
      # the same one for uninitialized, because NEON's intrinsics are plain code.
      target_compile_options(${target} PRIVATE -Wno-maybe-uninitialized)
    endif()
  endif()
  if(ASPIS_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(ASPIS_SANITIZE)
    # GCC's flow analysis is led astray by the checks that the sanitizers add.
    target_compile_options(${target} PRIVATE -Wno-maybe-uninitialized)
    target_compile_options(${target} PUBLIC -fsanitize=${ASPIS_SANITIZE} -fno-omit-frame-pointer -g1)
    target_link_options(${target} PUBLIC -fsanitize=${ASPIS_SANITIZE})
    if(ASPIS_SANITIZE MATCHES "undefined")
      target_compile_options(${target} PUBLIC -fno-sanitize-recover=undefined)
    endif()
  endif()
endfunction()

function(aspis_component name)
  cmake_parse_arguments(arg "WITH_MLX" "" "SOURCES;DEPS;LIBS;PUBLIC_LIBS;TESTS;TEST_DEPS;LABELS" ${ARGN})
  if(arg_WITH_MLX AND NOT ASPIS_WITH_MLX)
    return()
  endif()
  set(target aspis_${name})
  set(deps ${arg_DEPS})
  list(TRANSFORM deps PREPEND aspis_)
  if(arg_SOURCES)
    add_library(${target} STATIC ${arg_SOURCES})
    set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE ON)
    target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:include>)
    target_link_libraries(${target} PUBLIC ${deps} ${arg_PUBLIC_LIBS} PRIVATE ${arg_LIBS})
    aspis_compile_options(${target})
    if(arg_WITH_MLX)
      # MLX's headers are not clean under our warnings.
      target_include_directories(${target} SYSTEM PUBLIC $<BUILD_INTERFACE:${MLX_INCLUDE_DIRS}>)
      target_link_libraries(${target} PUBLIC mlx)
    endif()
  else()
    add_library(${target} INTERFACE)
    target_include_directories(${target} INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:include>)
    target_link_libraries(${target} INTERFACE ${deps} ${arg_PUBLIC_LIBS})
  endif()
  add_library(aspis::${name} ALIAS ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name})
  set_property(GLOBAL APPEND PROPERTY ASPIS_COMPONENTS ${target})
  if(NOT arg_WITH_MLX)
    set_property(GLOBAL APPEND PROPERTY ASPIS_PLAIN_COMPONENTS ${target})
  endif()

  if(ASPIS_BUILD_TESTS AND arg_TESTS)
    aspis_test(${name} SOURCES ${arg_TESTS} DEPS ${name} ${arg_TEST_DEPS} LIBS ${arg_LIBS} LABELS ${arg_LABELS})
  endif()
endfunction()

# aspis_test(name SOURCES ... DEPS ... LIBS ... LABELS ...): a doctest program aspis_<name>_test.
function(aspis_test name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS;LIBS;LABELS" ${ARGN})
  set(target aspis_${name}_test)
  set(deps ${arg_DEPS})
  list(TRANSFORM deps PREPEND aspis_)
  add_executable(${target} ${arg_SOURCES})
  target_link_libraries(${target} PRIVATE ${deps} ${arg_LIBS} aspis_doctest_main)
  aspis_compile_options(${target})
  target_compile_definitions(${target} PRIVATE
    ASPIS_SOURCE_DIR="${PROJECT_SOURCE_DIR}" ASPIS_BINARY_DIR="${PROJECT_BINARY_DIR}")
  set(labels ${arg_LABELS})
  if(NOT labels)
    set(labels unit)
  endif()
  # One ctest entry a program: doctest's discovery stumbles over brackets and
  # semicolons in names, and a process for each of 600 cases costs more than they do.
  add_test(NAME ${name} COMMAND ${target})
  set_tests_properties(${name} PROPERTIES LABELS "${labels}" TIMEOUT 600)
endfunction()
