#include "aspis/base/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "aspis/base/clock.h"
#include "aspis/base/io_calls.h"

namespace aspis {
namespace {

namespace fs = std::filesystem;

int open_call(const char* path, int flags, mode_t mode) { return ::open(path, flags, mode); }

int fsync_call(int fd) {
#if defined(F_FULLFSYNC)
  // On macOS fsync leaves the data in the drive's cache.
  if (::fcntl(fd, F_FULLFSYNC) == 0) return 0;
#endif
  return ::fsync(fd);
}

// A descriptor that is closed on the way out of a failure. The good path calls
// close() itself, because an error of close is an error of the write.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) io_calls().close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }
  // The descriptor is gone afterwards, whatever close answered.
  int close() { return io_calls().close(std::exchange(fd_, -1)); }

 private:
  int fd_;
};

int open_retry(const fs::path& path, int flags, mode_t mode = 0666) {
  for (;;) {
    const int fd = io_calls().open(path.c_str(), flags | O_CLOEXEC, mode);
    if (fd >= 0 || errno != EINTR) return fd;
  }
}

int fsync_retry(int fd) {
  for (;;) {
    const int rc = io_calls().fsync(fd);
    if (rc == 0 || errno != EINTR) return rc;
  }
}

// Writes everything; returns false with errno set. `done` counts the bytes
// that arrived.
bool write_all(int fd, std::string_view content, size_t& done) {
  constexpr size_t kPiece = size_t{1} << 30;  // one call of Linux moves at most 2 GiB
  done = 0;
  while (done < content.size()) {
    const ssize_t n = io_calls().write(fd, content.data() + done, std::min(kPiece, content.size() - done));
    if (n > 0) {
      done += static_cast<size_t>(n);
    } else if (n == 0) {
      errno = EIO;
      return false;
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

[[noreturn]] void fail_read(ErrorKind kind, const fs::path& path, std::string required, std::string got = {},
                            std::string hint = {}) {
  throw Error(kind, {.where = path.string(),
                     .required = std::move(required),
                     .got = std::move(got),
                     .hint = std::move(hint)});
}

bool same_time(const struct stat& a, const struct stat& b) {
#if defined(__APPLE__)
  return a.st_mtimespec.tv_sec == b.st_mtimespec.tv_sec && a.st_mtimespec.tv_nsec == b.st_mtimespec.tv_nsec;
#else
  return a.st_mtim.tv_sec == b.st_mtim.tv_sec && a.st_mtim.tv_nsec == b.st_mtim.tv_nsec;
#endif
}

// Where the file will really be: the target of a symbolic link, so that the
// link itself survives.
fs::path resolved(const fs::path& path) {
  std::error_code ec;
  if (!fs::is_symlink(path, ec)) return path;
  const fs::path target = fs::canonical(path, ec);
  return ec ? path : target;
}

void write_special(const fs::path& path, std::string_view content) {
  Descriptor fd(open_retry(path, O_WRONLY));
  if (!fd.ok()) throw_write_error(path, "open", errno);
  size_t done = 0;
  if (!write_all(fd.get(), content, done)) throw_write_error(path, "write", errno);
  if (fd.close() != 0 && errno != EINTR) throw_write_error(path, "close", errno);
}

}  // namespace

IoCalls default_io_calls() {
  return {open_call, ::write, fsync_call, ::close, ::rename, ::mkdir, ::unlink, ::rmdir, ::statvfs};
}

IoCalls& io_calls() {
  static IoCalls calls = default_io_calls();
  return calls;
}

void throw_write_error(const fs::path& path, std::string_view call, int error, ErrorKind kind) {
  Error::Parts p;
  p.where = path.string();
  const std::string detail = std::string(std::strerror(error)) + " (" + std::string(call) + ")";
  switch (error) {
    case ENOSPC:
      p = {p.where, "the disk must have room for this file", detail, "free some space or choose another folder"};
      break;
    case EDQUOT:
      p = {p.where, "the disk quota must have room for this file", detail,
           "remove files of yours or choose another folder"};
      break;
    case EROFS:
      p = {p.where, "the file system must be writable", detail, "choose a folder on another file system"};
      break;
    case EACCES:
    case EPERM:
      p = {p.where, "this process must be allowed to write here", detail,
           "choose another folder or change its permissions"};
      break;
    case ENOENT:
      p = {p.where, "the folder of this file must exist", detail, "create the folder first"};
      break;
    case ENOTDIR:
      p = {p.where, "every part of this path before the last must be a folder", detail, "choose another path"};
      break;
    case EISDIR:
    case EEXIST:
    case ENOTEMPTY:
      p = {p.where, "the path must be free for this file", detail, "choose another path"};
      break;
    case ENAMETOOLONG: p = {p.where, "the file name must be shorter", detail, "choose a shorter name"}; break;
    default: p = {p.where, "the file must be written without an error of the system", detail, {}}; break;
  }
  throw Error(kind, std::move(p));
}

std::string read_file(const fs::path& path, ErrorKind kind, int64_t limit) {
  // O_NONBLOCK: opening a pipe must not wait for a writer.
  Descriptor fd(open_retry(path, O_RDONLY | O_NONBLOCK));
  if (!fd.ok()) {
    const int error = errno;
    if (error == ENOENT || error == ENOTDIR) fail_read(kind, path, "the file must exist", "no such file");
    if (error == EACCES) {
      fail_read(kind, path, "this process must be allowed to read the file", std::strerror(error),
                "change its permissions");
    }
    fail_read(kind, path, "the file must be readable", std::strerror(error));
  }
  struct stat before {};
  if (::fstat(fd.get(), &before) != 0) fail_read(kind, path, "the file must be readable", std::strerror(errno));
  if (S_ISDIR(before.st_mode)) fail_read(kind, path, "a file is needed here", "a folder");
  if (!S_ISREG(before.st_mode)) fail_read(kind, path, "a regular file is needed here", "a device or pipe");
  if (before.st_size > limit) {
    fail_read(kind, path, "the file must not be larger than " + format_bytes(static_cast<double>(limit)),
              format_bytes(static_cast<double>(before.st_size)));
  }
  std::string content;
  try {
    content.resize(static_cast<size_t>(before.st_size));
  } catch (const std::exception&) {
    fail_read(ErrorKind::kDevice, path, "memory must hold the file",
              format_bytes(static_cast<double>(before.st_size)) + " that could not be allocated");
  }
  size_t done = 0;
  while (done < content.size()) {
    constexpr size_t kPiece = size_t{1} << 30;
    const ssize_t n = ::pread(fd.get(), content.data() + done, std::min(kPiece, content.size() - done),
                              static_cast<off_t>(done));
    if (n > 0) {
      done += static_cast<size_t>(n);
    } else if (n == 0) {
      fail_read(kind, path, "the file must not change while it is read",
                "an end at byte " + std::to_string(done) + " of " + std::to_string(content.size()));
    } else if (errno != EINTR) {
      fail_read(kind, path, "the file must be readable", std::strerror(errno));
    }
  }
  struct stat after {};
  if (::fstat(fd.get(), &after) != 0 || after.st_size != before.st_size || !same_time(before, after)) {
    fail_read(kind, path, "the file must not change while it is read", "a change by someone else", "read it again");
  }
  return content;
}

void write_file_synced(const fs::path& path, std::string_view content, bool durable, unsigned mode) {
  Descriptor fd(open_retry(path, O_WRONLY | O_CREAT | O_EXCL, mode & 07777));
  if (!fd.ok()) throw_write_error(path, "open", errno);
  try {
    size_t done = 0;
    if (!write_all(fd.get(), content, done)) throw_write_error(path, "write", errno);
    if (durable && fsync_retry(fd.get()) != 0) throw_write_error(path, "fsync", errno);
    // Linux has released the descriptor when close reports EINTR.
    if (fd.close() != 0 && errno != EINTR) throw_write_error(path, "close", errno);
  } catch (...) {
    io_calls().unlink(path.c_str());
    throw;
  }
}

void write_file_atomic(const fs::path& path, std::string_view content, bool durable) {
  static std::atomic<unsigned> counter{0};
  const fs::path target = resolved(path);
  unsigned mode = 0666;
  struct stat old {};
  const bool exists = ::stat(target.c_str(), &old) == 0;
  if (exists && S_ISDIR(old.st_mode)) throw_write_error(path, "open", EISDIR);
  if (exists && !S_ISREG(old.st_mode)) {
    // A device or pipe such as /dev/null must not be replaced by a file.
    write_special(path, content);
    return;
  }
  std::string name = ".";
  name += target.filename().string();
  name += ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(counter++);
  const fs::path temporary = target.parent_path() / name;
  // Left by a process of the same number that died.
  ::unlink(temporary.c_str());
  try {
    write_file_synced(temporary, content, durable, mode);
  } catch (const Error& e) {
    // Name the file the caller knows.
    Error::Parts parts = e.parts();
    parts.where = path.string();
    throw Error(e.kind(), parts);
  }
  // The mode of a file that was there is kept; failing at that is harmless.
  if (exists) (void)!::chmod(temporary.c_str(), old.st_mode & 07777);
  if (io_calls().rename(temporary.c_str(), target.c_str()) != 0) {
    const int error = errno;
    io_calls().unlink(temporary.c_str());
    throw_write_error(path, "rename", error);
  }
  if (durable) sync_folder(target.has_parent_path() ? target.parent_path() : fs::path("."));
}

void sync_folder(const fs::path& path) {
  Descriptor fd(open_retry(path, O_RDONLY | O_DIRECTORY));
  if (!fd.ok()) throw_write_error(path, "open", errno);
  // Some network file systems cannot sync folders and say EINVAL.
  if (fsync_retry(fd.get()) != 0 && errno != EINVAL && errno != ENOTSUP) throw_write_error(path, "fsync", errno);
  if (fd.close() != 0 && errno != EINTR) throw_write_error(path, "close", errno);
}

AppendFile::AppendFile(const fs::path& path) : path_(path) {
  fd_ = open_retry(path, O_RDWR | O_CREAT | O_APPEND);
  if (fd_ < 0) throw_write_error(path, "open", errno);
  // A crash may have left a part of a line; what follows starts on its own line.
  struct stat info {};
  char last = '\n';
  if (::fstat(fd_, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0 &&
      ::pread(fd_, &last, 1, info.st_size - 1) == 1 && last != '\n') {
    try {
      write("\n");
    } catch (...) {
      io_calls().close(fd_);
      throw;
    }
  }
}

AppendFile::~AppendFile() {
  if (fd_ >= 0) io_calls().close(fd_);
}

void AppendFile::write(std::string_view text) {
  struct stat before {};
  const bool regular = ::fstat(fd_, &before) == 0 && S_ISREG(before.st_mode);
  size_t done = 0;
  if (write_all(fd_, text, done)) return;
  const int error = errno;
  // Take a part that arrived back, so that the file keeps whole lines.
  if (regular) (void)!::ftruncate(fd_, before.st_size);
  throw_write_error(path_, "write", error);
}

FileLock::FileLock(const fs::path& path) : path_(path) {
  fd_ = open_retry(path, O_RDWR | O_CREAT);
  if (fd_ < 0) throw_write_error(path, "open", errno, ErrorKind::kBusy);
  int rc = 0;
  do {
    rc = ::flock(fd_, LOCK_EX | LOCK_NB);
  } while (rc != 0 && errno == EINTR);
  if (rc != 0) {
    const int error = errno;
    char text[128];
    const ssize_t n = ::pread(fd_, text, sizeof text, 0);
    std::string holder(text, n > 0 ? static_cast<size_t>(n) : 0);
    holder = holder.substr(0, holder.find('\n'));
    io_calls().close(std::exchange(fd_, -1));
    if (error != EWOULDBLOCK) throw_write_error(path, "flock", error, ErrorKind::kBusy);
    throw Error(ErrorKind::kBusy, {.where = path.string(),
                                   .required = "only one process may hold this lock",
                                   .got = holder.empty() ? "a lock of another process" : "a lock of " + holder,
                                   .hint = "wait for that process to end or choose another folder"});
  }
  const std::string holder = "process " + std::to_string(::getpid()) + ", started " + utc_timestamp() + "\n";
  size_t done = 0;
  if (::ftruncate(fd_, 0) != 0 || !write_all(fd_, holder, done)) {
    const int error = errno;
    io_calls().close(std::exchange(fd_, -1));
    throw_write_error(path, "write", error, ErrorKind::kBusy);
  }
}

FileLock::~FileLock() {
  if (fd_ < 0) return;
  // The file stays: removing it would let a third process lock a new file of
  // the same name while a second one waits on this one.
  (void)!::ftruncate(fd_, 0);
  io_calls().close(fd_);
}

}  // namespace aspis
