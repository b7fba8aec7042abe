#include "aspis/base/file.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): raise() of POSIX signals
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "aspis/base/io_calls.h"

using namespace aspis;
namespace fs = std::filesystem;

namespace {

// The name holds spaces and non-ASCII letters on purpose.
struct Folder {
  fs::path path;
  Folder() {
    const fs::path memory = "/dev/shm";
    path = (::access(memory.c_str(), W_OK) == 0 ? memory : fs::temp_directory_path()) /
           ("aspis file t\xc3\xa9st " + std::to_string(::getpid()));
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() {
    io_calls() = default_io_calls();
    fs::remove_all(path);
  }
  fs::path operator/(const char* name) const { return path / name; }
  size_t entries() const {
    size_t n = 0;
    for ([[maybe_unused]] const auto& e : fs::directory_iterator(path)) n++;
    return n;
  }
};

template <typename F>
std::string message_of(ErrorKind kind, F&& f) {
  try {
    f();
  } catch (const Error& e) {
    CHECK(e.kind() == kind);
    return e.what();
  }
  return "";
}
bool mentions(const std::string& message, const std::string& part) { return message.find(part) != std::string::npos; }

int fail_at = 0, calls = 0, fail_with = 0;
bool fail_always = false;
bool strikes() {
  calls++;
  if (fail_at == 0 || (fail_always ? calls < fail_at : calls != fail_at)) return false;
  errno = fail_with;
  return true;
}
// Every call of the table may fail; a failing write has moved half of its bytes.
void install_faults(int at, bool always, int error) {
  fail_at = at, calls = 0, fail_with = error, fail_always = always;
  IoCalls c = default_io_calls();
  c.open = [](const char* p, int flags, mode_t mode) { return strikes() ? -1 : ::open(p, flags, mode); };
  c.write = [](int fd, const void* data, size_t n) -> ssize_t {
    if (fail_at != 0 && calls + 1 == fail_at) (void)!::write(fd, data, n / 2);
    return strikes() ? -1 : ::write(fd, data, n);
  };
  c.fsync = [](int fd) { return strikes() ? -1 : ::fsync(fd); };
  c.close = [](int fd) {
    const bool hit = strikes();
    const int rc = ::close(fd);
    return hit ? (errno = fail_with, -1) : rc;
  };
  c.rename = [](const char* a, const char* b) { return strikes() ? -1 : ::rename(a, b); };
  io_calls() = c;
}

}  // namespace

TEST_CASE("sha256 gives the values of FIPS 180-4 and of long and odd inputs") {
  CHECK(sha256_hex("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256_hex("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(sha256_hex(std::string(1000000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  // The lengths around the padding rules; each hash is an input of the next.
  std::string chain;
  for (size_t n = 0; n < 200; n++) chain = sha256_hex(chain + std::string(n, static_cast<char>(n)));
  CHECK(chain == "275dbee5ad39f9eb60352ce8cca1b6cb518c94c9edd8052774b39bc0a3f1721b");
}

TEST_CASE("a file is read whole; empty and large ones too") {
  const Folder folder;
  std::string content;
  for (int i = 0; i < 300000; i++) content += static_cast<char>(i * 7 + i / 256);
  write_file_atomic(folder / "a", content);
  CHECK(read_file(folder / "a") == content);
  write_file_atomic(folder / "a", "");
  CHECK(read_file(folder / "a").empty());
  CHECK(folder.entries() == 1);
}

TEST_CASE("what cannot be read is named with its reason and the kind asked for") {
  const Folder folder;
  CHECK(message_of(ErrorKind::kModel, [&] { read_file(folder / "none", ErrorKind::kModel); }) ==
        "[" + (folder / "none").string() + "] the file must exist; got no such file");
  CHECK(mentions(message_of(ErrorKind::kData, [&] { read_file(folder.path); }), "a file is needed here; got a folder"));
  CHECK(mentions(message_of(ErrorKind::kData, [&] { read_file("/dev/null"); }), "regular file"));
  write_file_atomic(folder / "a", "12345");
  CHECK(read_file(folder / "a", ErrorKind::kData, 5) == "12345");
  CHECK(mentions(message_of(ErrorKind::kData, [&] { read_file(folder / "a", ErrorKind::kData, 4); }),
                 "must not be larger than 4 B; got 5 B"));
  CHECK(mentions(message_of(ErrorKind::kData, [&] { read_file(folder / "a" / "b"); }), "must exist"));
  if (::geteuid() != 0) {
    fs::permissions(folder / "a", fs::perms::none);
    CHECK(mentions(message_of(ErrorKind::kData, [&] { read_file(folder / "a"); }), "allowed to read"));
  }
}

TEST_CASE("an atomic write keeps the mode of the file, symbolic links and devices") {
  const Folder folder;
  write_file_atomic(folder / "a", "old");
  fs::permissions(folder / "a", fs::perms(0640));
  fs::create_symlink("a", folder / "link");
  write_file_atomic(folder / "link", "new");
  CHECK(fs::is_symlink(folder / "link"));
  CHECK(read_file(folder / "a") == "new");
  CHECK(fs::status(folder / "a").permissions() == fs::perms(0640));
  const mode_t mask = ::umask(0022);
  write_file_atomic(folder / "b", "x");
  ::umask(mask);
  CHECK(fs::status(folder / "b").permissions() == fs::perms(0644));
  write_file_atomic("/dev/null", "x");
  CHECK(fs::is_character_file("/dev/null"));
}

TEST_CASE("a relative path without a folder is written in the present one") {
  const Folder folder;
  const fs::path before = fs::current_path();
  fs::current_path(folder.path);
  write_file_atomic("plain", "x");
  fs::current_path(before);
  CHECK(read_file(folder / "plain") == "x");
}

TEST_CASE("failures to write say what is wrong and what to try") {
  const Folder folder;
  CHECK(message_of(ErrorKind::kWrite, [&] { write_file_atomic(folder / "no" / "a", "x"); }) ==
        "[" + (folder / "no" / "a").string() +
            "] the folder of this file must exist; got No such file or directory (open). Try: create the folder first");
  CHECK(mentions(message_of(ErrorKind::kWrite, [&] { write_file_atomic(folder.path, "x"); }), "must be free"));
  const std::pair<int, const char*> cases[] = {{ENOSPC, "the disk must have room"},
                                               {EDQUOT, "disk quota"},
                                               {EROFS, "file system must be writable"},
                                               {EACCES, "allowed to write"},
                                               {EIO, "without an error of the system"},
                                               {ENAMETOOLONG, "name must be shorter"}};
  for (const auto& [error, words] : cases) {
    install_faults(1, false, error);
    CHECK(mentions(message_of(ErrorKind::kWrite, [&] { write_file_atomic(folder / "a", "x"); }), words));
    io_calls() = default_io_calls();
  }
  CHECK(folder.entries() == 0);
}

TEST_CASE("an atomic write that fails at any call leaves the old file whole and nothing else") {
  const Folder folder;
  for (const bool durable : {true, false}) {
    write_file_atomic(folder / "a", "old", durable);
    install_faults(0, false, 0);
    write_file_atomic(folder / "a", "new!", durable);
    const int needed = calls;
    CHECK(needed == (durable ? 8 : 4));
    for (int n = 1; n <= needed; n++) {
      for (const bool always : {false, true}) {
        io_calls() = default_io_calls();
        write_file_atomic(folder / "a", "old", durable);
        install_faults(n, always, EIO);
        CAPTURE(n);
        CHECK_THROWS_AS(write_file_atomic(folder / "a", "new!", durable), Error);
        io_calls() = default_io_calls();
        const std::string content = read_file(folder / "a");
        // After the rename only the sync of the folder can fail.
        CHECK(content == (durable && n > 5 ? "new!" : "old"));
        CHECK(folder.entries() == 1);
      }
    }
  }
}

TEST_CASE("interrupted and short writes go on where they stopped") {
  const Folder folder;
  static int turn;
  turn = 0;
  IoCalls c = default_io_calls();
  c.write = [](int fd, const void* data, size_t n) -> ssize_t {
    if (turn++ % 2 == 0) {
      errno = EINTR;
      return -1;
    }
    return ::write(fd, data, std::min<size_t>(n, 3));
  };
  io_calls() = c;
  write_file_atomic(folder / "a", "0123456789");
  CHECK(read_file(folder / "a") == "0123456789");
  CHECK(turn == 8);
  c.write = [](int, const void*, size_t) -> ssize_t { return 0; };
  io_calls() = c;
  CHECK_THROWS_AS(write_file_atomic(folder / "a", "x"), Error);
}

TEST_CASE("a synced file is not written over") {
  const Folder folder;
  write_file_synced(folder / "a", "first");
  CHECK_THROWS_WITH_AS(write_file_synced(folder / "a", "second"), doctest::Contains("must be free"), Error);
  CHECK(read_file(folder / "a") == "first");
  install_faults(2, false, ENOSPC);
  CHECK_THROWS_AS(write_file_synced(folder / "b", "second"), Error);
  CHECK_FALSE(fs::exists(folder / "b"));
}

TEST_CASE("an append file keeps whole lines through failures and crashes") {
  const Folder folder;
  {
    AppendFile log(folder / "log");
    log.write("one\n");
    install_faults(1, false, ENOSPC);
    CHECK(mentions(message_of(ErrorKind::kWrite, [&] { log.write("two is long\n"); }), "the disk must have room"));
    io_calls() = default_io_calls();
    CHECK(read_file(folder / "log") == "one\n");
    static bool first;
    first = true;
    IoCalls c = default_io_calls();
    c.write = [](int fd, const void* data, size_t n) -> ssize_t {
      if (std::exchange(first, false)) return ::write(fd, data, n / 2);
      errno = EIO;
      return -1;
    };
    io_calls() = c;
    CHECK_THROWS_AS(log.write("half\n"), Error);
    io_calls() = default_io_calls();
    CHECK(read_file(folder / "log") == "one\n");
    log.write("three\n");
  }
  CHECK(read_file(folder / "log") == "one\nthree\n");
  write_file_atomic(folder / "log", "one\ntw");
  AppendFile(folder / "log").write("four\n");
  CHECK(read_file(folder / "log") == "one\ntw\nfour\n");
  CHECK_THROWS_AS(AppendFile(folder / "no" / "log"), Error);
}

TEST_CASE("a lock refuses a second holder and names the first") {
  const Folder folder;
  const fs::path path = folder / "run.lock";
  {
    const FileLock lock(path);
    const std::string message = message_of(ErrorKind::kBusy, [&] { FileLock second(path); });
    CHECK(mentions(message, "got a lock of process " + std::to_string(::getpid()) + ", started 20"));
    const pid_t child = ::fork();
    if (child == 0) {
      try {
        const FileLock second(path);
      } catch (const Error& e) {
        ::_exit(e.exit_code());
      }
      ::_exit(0);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(WEXITSTATUS(status) == 73);
  }
  CHECK(message_of(ErrorKind::kBusy, [&] { FileLock again(path); }).empty());
}

TEST_CASE("a lock is free after kill -9 of its holder") {
  const Folder folder;
  const fs::path path = folder / "run.lock";
  int ready[2];
  REQUIRE(::pipe(ready) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const FileLock lock(path);
    (void)!::write(ready[1], "x", 1);
    for (;;) ::pause();
  }
  char byte = 0;
  REQUIRE(::read(ready[0], &byte, 1) == 1);
  CHECK(mentions(message_of(ErrorKind::kBusy, [&] { FileLock lock(path); }), "process " + std::to_string(child)));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  CHECK(message_of(ErrorKind::kBusy, [&] { FileLock lock(path); }).empty());
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_CASE("a lock in a folder that is missing is an error of the same kind") {
  const Folder folder;
  CHECK(mentions(message_of(ErrorKind::kBusy, [&] { FileLock lock(folder / "no" / "run.lock"); }),
                 "the folder of this file must exist"));
}
