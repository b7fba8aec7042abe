# Cross build for 64-bit Arm on Debian or Ubuntu, tests under qemu-user. Used by
# tools/arm64.sh, which fills ASPIS_ARM64_SYSROOT with the Arm packages of the
# libraries that Aspis stands on; the C and C++ libraries are the compiler's own.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
# Compiler checks run this file again, in a project of their own.
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES ASPIS_ARM64_SYSROOT)

if(NOT ASPIS_ARM64_SYSROOT)
  message(FATAL_ERROR "ASPIS_ARM64_SYSROOT must name the folder with the Arm packages; tools/arm64.sh makes one.")
endif()
set(CMAKE_FIND_ROOT_PATH ${ASPIS_ARM64_SYSROOT} /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(ENV{PKG_CONFIG_SYSROOT_DIR} ${ASPIS_ARM64_SYSROOT})
set(ENV{PKG_CONFIG_LIBDIR} ${ASPIS_ARM64_SYSROOT}/usr/lib/aarch64-linux-gnu/pkgconfig)

# Headers that differ between machines, and libraries of libraries.
set(CMAKE_CXX_FLAGS_INIT "-isystem ${ASPIS_ARM64_SYSROOT}/usr/include/aarch64-linux-gnu")
set(CMAKE_EXE_LINKER_FLAGS_INIT "-Wl,-rpath-link,${ASPIS_ARM64_SYSROOT}/usr/lib/aarch64-linux-gnu")

# ctest starts the test programs through it.
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu
  -E LD_LIBRARY_PATH=${ASPIS_ARM64_SYSROOT}/usr/lib/aarch64-linux-gnu)
