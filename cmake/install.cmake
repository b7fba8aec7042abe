# `cmake --install`: headers at their repository paths, one static library per
# component, the program, and a package that find_package(aspis) reads. MLX is
# not copied: the package asks for the same exact version, found through
# MLX_ROOT or CMAKE_PREFIX_PATH.
include(CMakePackageConfigHelpers)

get_property(components GLOBAL PROPERTY ASPIS_COMPONENTS)
get_property(plain_components GLOBAL PROPERTY ASPIS_PLAIN_COMPONENTS)

# aspis::kernels: everything below the framework border. aspis::aspis: all.
add_library(aspis_kernels INTERFACE)
target_link_libraries(aspis_kernels INTERFACE ${plain_components})
set_target_properties(aspis_kernels PROPERTIES EXPORT_NAME kernels)
add_library(aspis::kernels ALIAS aspis_kernels)
add_library(aspis_all INTERFACE)
target_link_libraries(aspis_all INTERFACE ${components})
set_target_properties(aspis_all PROPERTIES EXPORT_NAME aspis)
add_library(aspis::aspis ALIAS aspis_all)

set(exported ${components} aspis_kernels aspis_all)
if(TARGET aspis_dnnl)
  list(APPEND exported aspis_dnnl)
endif()
install(TARGETS ${exported} EXPORT aspis-targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT aspis-targets NAMESPACE aspis:: FILE aspis-targets.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/aspis)
install(DIRECTORY aspis DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  FILES_MATCHING PATTERN "*.h"
  PATTERN "cli" EXCLUDE PATTERN "*_impl.h" EXCLUDE)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/aspis-config.cmake.in
  ${PROJECT_BINARY_DIR}/aspis-config.cmake INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/aspis)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/aspis-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/aspis-config.cmake ${PROJECT_BINARY_DIR}/aspis-config-version.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/aspis)
if(TARGET aspis_program)
  install(TARGETS aspis_program RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(FILES LICENSE NOTICE DESTINATION ${CMAKE_INSTALL_DOCDIR})
