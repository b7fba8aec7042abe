#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "aspis/base/error.h"

namespace aspis {

/// The whole content of a regular file, read with a `pread` loop (short reads
/// go on where they stopped). Throws `Error(kind)` that names the file if it is
/// missing, not regular, larger than `limit` bytes, or changes its size while
/// being read.
std::string read_file(const std::filesystem::path& path, ErrorKind kind = ErrorKind::kData,
                      int64_t limit = int64_t{1} << 34);

/// Replaces `path` by `content` so that a crash at any moment leaves the old or
/// the new file, never a part: temporary file in the same folder, every write
/// checked, fsync, rename, fsync of the folder. Throws `Error(kWrite)`; the
/// temporary file is then removed and the old file untouched. `durable` off
/// leaves out the fsyncs, for files that are rewritten often (status, report).
void write_file_atomic(const std::filesystem::path& path, std::string_view content, bool durable = true);

/// Creates `path`, which must not exist, writes `content`, syncs and closes it,
/// every step checked. On failure nothing is left and `Error(kWrite)` is thrown.
/// The building block of protocols that rename a whole folder.
void write_file_synced(const std::filesystem::path& path, std::string_view content, bool durable = true,
                       unsigned mode = 0666);

/// Throws the sentence for a failed system call on `path`: disk full, read-only
/// file system, missing folder and so on. `error` is the errno.
[[noreturn]] void throw_write_error(const std::filesystem::path& path, std::string_view call, int error,
                                    ErrorKind kind = ErrorKind::kWrite);

/// Appends to a log-like file; opens once, writes whole lines: a write that
/// fails halfway is taken back, and a part of a line that a crash left is ended
/// before the first write. One writer at a time. Throws `Error(kWrite)`.
class AppendFile {
 public:
  explicit AppendFile(const std::filesystem::path& path);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;
  void write(std::string_view text);

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

/// An exclusive, non-blocking lock on a file; released when destroyed or when
/// the process dies. Throws `Error(kBusy)` with the pid of the holder.
class FileLock {
 public:
  explicit FileLock(const std::filesystem::path& path);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

/// fsync of a folder, so that renames in it survive a power loss.
void sync_folder(const std::filesystem::path& path);

/// SHA-256 in lower-case hex.
std::string sha256_hex(std::string_view bytes);

}  // namespace aspis
