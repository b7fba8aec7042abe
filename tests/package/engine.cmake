# Configuring with no engine, and with one of another version, must say in one
# sentence what is needed, what was found and what to do.
#   cmake -DSOURCE_DIR= -DWORK_DIR= -DGENERATOR= -DCOMPILER= -P engine.cmake

function(expect_refusal name root wanted)
  file(REMOVE_RECURSE ${WORK_DIR}/${name}-build)
  execute_process(
    COMMAND ${CMAKE_COMMAND} -S ${SOURCE_DIR} -B ${WORK_DIR}/${name}-build -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${COMPILER}
      -DMLX_ROOT=${root}
    RESULT_VARIABLE code OUTPUT_VARIABLE out ERROR_VARIABLE out)
  if(code EQUAL 0)
    message(FATAL_ERROR "${name}: configuring did not fail")
  endif()
  # CMake breaks long lines.
  string(REGEX REPLACE "[ \n]+" " " line "${out}")
  string(FIND "${line}" "${wanted}" at)
  if(at EQUAL -1)
    message(FATAL_ERROR "${name}: '${wanted}' is not in: ${line}")
  endif()
  message(STATUS "${name}: refused as it should be")
endfunction()

expect_refusal(missing ${WORK_DIR}/nowhere
  "Aspis needs the engine MLX 0.32.4 exactly; found none at ${WORK_DIR}/nowhere. Run tools/setup.sh, or pass -DMLX_ROOT=")

set(other ${WORK_DIR}/other/share/cmake/MLX)
file(WRITE ${other}/MLXConfig.cmake "")
file(WRITE ${other}/MLXConfigVersion.cmake [[
set(PACKAGE_VERSION 0.31.0)
if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)
  set(PACKAGE_VERSION_EXACT TRUE)
endif()
]])
expect_refusal(other ${WORK_DIR}/other "Aspis needs the engine MLX 0.32.4 exactly; found version 0.31.0 at")
