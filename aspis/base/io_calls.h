#pragma once

#include <sys/statvfs.h>
#include <sys/types.h>

#include <cstddef>

namespace aspis {

/// The system calls behind every write that Aspis makes, as a table that a test
/// can replace to let the n-th call fail or end the process there. Each entry
/// behaves as the call of the same name: result and `errno`. Not meant to be
/// changed while other threads write.
struct IoCalls {
  int (*open)(const char* path, int flags, mode_t mode);
  ssize_t (*write)(int fd, const void* data, size_t n);
  int (*fsync)(int fd);  ///< F_FULLFSYNC on macOS
  int (*close)(int fd);
  int (*rename)(const char* from, const char* to);
  int (*mkdir)(const char* path, mode_t mode);
  int (*unlink)(const char* path);  ///< files
  int (*rmdir)(const char* path);   ///< empty folders
  int (*statvfs)(const char* path, struct statvfs* out);
};

/// The table in use; assign to it to replace calls.
IoCalls& io_calls();

/// The real system calls.
IoCalls default_io_calls();

}  // namespace aspis
