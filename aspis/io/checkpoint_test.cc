#include "aspis/io/checkpoint.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "aspis/base/error.h"
#include "aspis/base/file.h"
#include "aspis/base/io_calls.h"
#include "aspis/base/log.h"
#include "aspis/base/rng.h"

using namespace aspis;
namespace fs = std::filesystem;

namespace {

// Hundreds of real fsyncs take half a minute on a busy disk: memory if there is
// a file system in it.
fs::path scratch() {
  const fs::path memory = "/dev/shm";
  return ::access(memory.c_str(), W_OK) == 0 ? memory : fs::temp_directory_path();
}

struct Folder {
  fs::path path = scratch() / ("aspis-checkpoint-" + std::to_string(::getpid()));
  Folder() {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  fs::path operator/(const char* name) const { return path / name; }
};

std::vector<CheckpointFile> files_of(int64_t step) {
  const std::string s = std::to_string(step);
  return {{"model.safetensors", "weights of step " + s}, {"optimizer.safetensors", std::string(100, 'o') + s},
          {"state.json", "{\"step\": " + s + "}\n"}};
}
CheckpointManifest manifest_of(int64_t step) {
  return {.model = "vision_mamba", .step = step, .info = {{"threads", "2"}, {"version", "0.1.0"}}};
}
void save(const fs::path& folder, int64_t step) { save_checkpoint(folder, files_of(step), manifest_of(step)); }

// The step of the checkpoint that loads, all content verified.
int64_t loaded_step(const fs::path& folder) {
  const Checkpoint c = load_checkpoint(folder, {.model = "vision_mamba", .files = {}, .fallback = {}});
  const auto want = files_of(c.manifest.step);
  REQUIRE(c.files.size() == want.size());
  for (const auto& f : want) REQUIRE(c.file(f.name) == f.bytes);
  REQUIRE(c.manifest.info == manifest_of(1).info);
  return c.manifest.step;
}

std::string load_error(const fs::path& folder, const CheckpointExpected& expected = {}) {
  try {
    load_checkpoint(folder, expected);
  } catch (const Error& e) {
    CHECK(e.kind() == ErrorKind::kModel);
    return e.what();
  }
  return "";
}
bool mentions(const std::string& message, const std::string& part) { return message.find(part) != std::string::npos; }

void overwrite(const fs::path& path, const std::string& content) { write_file_atomic(path, content, false); }

// --- Faults at the n-th system call -----------------------------------------

enum class Fault { kNone, kFail, kExit };
struct Plan {
  Fault fault = Fault::kNone;
  int at = 0;            // the call that fails, counted from 1
  bool persistent = false;
  int error = ENOSPC;
  int calls = 0;
};
Plan plan;

bool strikes() {
  plan.calls++;
  const bool hit = plan.persistent ? plan.calls >= plan.at : plan.calls == plan.at;
  if (!hit || plan.fault == Fault::kNone) return false;
  if (plan.fault == Fault::kExit) ::_exit(77);
  errno = plan.error;
  return true;
}

IoCalls faulty_calls() {
  IoCalls c = default_io_calls();
  c.open = [](const char* p, int flags, mode_t mode) { return strikes() ? -1 : ::open(p, flags, mode); };
  c.write = [](int fd, const void* data, size_t n) -> ssize_t {
    // Half of it arrives before the fault, as on a disk that fills up.
    if (plan.fault != Fault::kNone && plan.calls + 1 == plan.at) (void)!::write(fd, data, n / 2);
    return strikes() ? -1 : ::write(fd, data, n);
  };
  c.fsync = [](int fd) { return strikes() ? -1 : ::fsync(fd); };
  c.close = [](int fd) {
    const bool hit = strikes();
    const int rc = ::close(fd);
    return hit ? (errno = plan.error, -1) : rc;
  };
  c.rename = [](const char* a, const char* b) { return strikes() ? -1 : ::rename(a, b); };
  c.mkdir = [](const char* p, mode_t m) { return strikes() ? -1 : ::mkdir(p, m); };
  c.unlink = [](const char* p) { return strikes() ? -1 : ::unlink(p); };
  c.rmdir = [](const char* p) { return strikes() ? -1 : ::rmdir(p); };
  return c;
}

struct FaultScope {
  FaultScope(Fault fault, int at, bool persistent, int error) {
    plan = {fault, at, persistent, error, 0};
    io_calls() = faulty_calls();
  }
  ~FaultScope() {
    io_calls() = default_io_calls();
    plan = {};
  }
};

// Calls that one save needs from the state that `prepare` makes.
template <typename Prepare>
int calls_of_save(const Folder& folder, Prepare&& prepare) {
  prepare();
  const FaultScope scope(Fault::kNone, 0, false, 0);
  save(folder / "last", 2);
  return plan.calls;
}

void check_no_rest(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    CHECK_FALSE(mentions(entry.path().filename().string(), ".tmp-"));
  }
}

}  // namespace

TEST_CASE("a checkpoint is saved, loaded and replaced; nothing else stays in the folder") {
  const Folder folder;
  const fs::path last = folder.path / "new" / "checkpoints" / "last";
  CHECK_FALSE(checkpoint_exists(last));
  save(last, 1);
  CHECK(checkpoint_exists(last));
  CHECK(loaded_step(last) == 1);
  save(last, 2);
  save(last.string() + "/", 3);
  CHECK(loaded_step(last) == 3);
  CHECK(loaded_step(last.string() + "/") == 3);
  CHECK(read_checkpoint_manifest(last).step == 3);
  int entries = 0;
  for (const auto& e : fs::directory_iterator(last.parent_path())) entries += e.path().filename() == "last" ? 1 : 100;
  CHECK(entries == 1);
  remove_checkpoint(last);
  CHECK_FALSE(checkpoint_exists(last));
  CHECK_NOTHROW(remove_checkpoint(last));
}

TEST_CASE("save, load, save gives equal bytes in every file") {
  const Folder folder;
  save(folder / "a", 7);
  const Checkpoint c = load_checkpoint(folder / "a");
  CHECK_FALSE(c.fell_back);
  save_checkpoint(folder / "b", c.files, c.manifest);
  for (const char* name : {"manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"}) {
    CHECK(read_file(folder / "a" / name) == read_file(folder / "b" / name));
  }
}

TEST_CASE("only the files asked for are read and verified") {
  const Folder folder;
  save(folder / "last", 1);
  overwrite(folder / "last" / "optimizer.safetensors", "damaged");
  const Checkpoint c = load_checkpoint(folder / "last", {.model = {}, .files = {"model.safetensors"}, .fallback = {}});
  CHECK(c.files.size() == 1);
  CHECK(c.file("model.safetensors") == "weights of step 1");
  CHECK_THROWS_AS(c.file("state.json"), Error);
  CHECK(mentions(load_error(folder / "last", {.model = {}, .files = {"absent.bin"}, .fallback = {}}),
                 "must hold the file absent.bin"));
}

TEST_CASE("every truncation of every file is an error") {
  const Folder folder;
  save(folder / "last", 1);
  for (const char* name : {"manifest.json", "model.safetensors", "state.json"}) {
    const std::string whole = read_file(folder / "last" / name);
    for (size_t n = 0; n < whole.size(); n++) {
      overwrite(folder / "last" / name, whole.substr(0, n));
      const std::string message = load_error(folder / "last");
      CAPTURE(n);
      CHECK(mentions(message, name));
    }
    overwrite(folder / "last" / name, whole + "x");
    CHECK_FALSE(load_error(folder / "last").empty());
    fs::remove(folder / "last" / name);
    CHECK(mentions(load_error(folder / "last"), name));
    overwrite(folder / "last" / name, whole);
    CHECK(loaded_step(folder / "last") == 1);
  }
}

TEST_CASE("every flipped byte of every file is an error") {
  const Folder folder;
  save(folder / "last", 1);
  for (const char* name : {"manifest.json", "model.safetensors", "state.json"}) {
    const std::string whole = read_file(folder / "last" / name);
    for (size_t i = 0; i < whole.size(); i++) {
      for (const int mask : {1, 32, 128, 255}) {
        std::string bad = whole;
        bad[i] = static_cast<char>(bad[i] ^ mask);
        overwrite(folder / "last" / name, bad);
        CAPTURE(i);
        CHECK_FALSE(load_error(folder / "last").empty());
      }
    }
    overwrite(folder / "last" / name, whole);
  }
  CHECK(loaded_step(folder / "last") == 1);
}

TEST_CASE("what is wrong is said in one sentence") {
  const Folder folder;
  CHECK(mentions(load_error(folder / "none"), "a checkpoint must be here; got none"));
  save(folder / "last", 1);
  const fs::path weights = folder / "last" / "model.safetensors";
  const std::string whole = read_file(weights);
  overwrite(weights, whole.substr(0, 5));
  CHECK(load_error(folder / "last") == "[" + weights.string() +
                                           "] the file must have the 17 bytes of its manifest; got 5. "
                                           "Try: use an older checkpoint; this one is damaged");
  overwrite(weights, "Weights of step 1");
  CHECK(mentions(load_error(folder / "last"), "must have the SHA-256 of its manifest"));
  overwrite(weights, whole);
  const std::string other = load_error(folder / "last", {.model = "vim_tiny", .files = {}, .fallback = {}});
  CHECK(mentions(other, "must be of model 'vim_tiny'; got one of model 'vision_mamba'"));
}

TEST_CASE("a newer format is named as such and not answered with an older checkpoint") {
  const Folder folder;
  save(folder / "older", 1);
  CheckpointManifest m = manifest_of(2);
  m.format = kCheckpointFormat + 1;
  save_checkpoint(folder / "last", files_of(2), m);
  CHECK(mentions(load_error(folder / "last", {.model = {}, .files = {}, .fallback = {folder / "older"}}),
                 "must have format 1 or older; got format 2"));
  // Also if that format seals its manifest in another way.
  overwrite(folder / "last" / "manifest.json", R"({"kind": "aspis checkpoint", "format": 3, "seal": "other"})");
  CHECK(mentions(load_error(folder / "last"), "got format 3"));
}

TEST_CASE("hand-made manifests with a correct seal cannot reach outside the folder") {
  const Folder folder;
  save(folder / "last", 1);
  overwrite(folder / "secret", "secret");
  for (const char* name : {"../secret", "/etc/hostname", "", ".", "..", "a/b", "manifest.json", ".hidden", "a\\u0000b"}) {
    std::string body = std::string("{\n  \"kind\": \"aspis checkpoint\",\n  \"format\": 1,\n  \"model\": \"m\",\n") +
                       "  \"step\": 1,\n  \"info\": {},\n  \"files\": [{\"name\": \"" + name +
                       "\", \"bytes\": 6, \"sha256\": \"" + sha256_hex("secret") + "\"}]\n}\n";
    const std::string hash = sha256_hex(body);
    body.resize(body.size() - 3);
    overwrite(folder / "last" / "manifest.json", body + ",\n  \"sha256\": \"" + hash + "\"\n}\n");
    CAPTURE(name);
    CHECK(mentions(load_error(folder / "last"), "plain file names"));
  }
  CHECK_THROWS_AS(save_checkpoint(folder / "x", std::vector<CheckpointFile>{{"../a", "b"}}, manifest_of(1)), Error);
  CHECK_THROWS_AS(save_checkpoint(folder / "x", std::vector<CheckpointFile>{{"a", "b"}, {"a", "c"}}, manifest_of(1)),
                  Error);
}

TEST_CASE("a damaged checkpoint is answered with .old, then the fallbacks, and a warning") {
  const Folder folder;
  std::vector<std::string> warnings;
  set_log_sink([&](LogLevel, std::string_view, std::string_view m) { warnings.emplace_back(m); }, LogLevel::kWarning);
  save(folder / "step-5", 5);
  save(folder / "last", 9);
  CHECK(loaded_step(folder / "last") == 9);
  CHECK(warnings.empty());
  fs::copy(folder / "last", folder / "last.old");
  overwrite(folder / "last" / "state.json", "damaged");
  const CheckpointExpected expected{.model = "vision_mamba", .files = {}, .fallback = {folder / "step-5"}};
  Checkpoint c = load_checkpoint(folder / "last", expected);
  CHECK(c.manifest.step == 9);
  CHECK(c.fell_back);
  CHECK(c.folder == folder / "last.old");
  REQUIRE(warnings.size() == 1);
  CHECK(mentions(warnings[0], "state.json"));
  overwrite(folder / "last.old" / "state.json", "damaged");
  c = load_checkpoint(folder / "last", expected);
  CHECK(c.manifest.step == 5);
  CHECK(warnings.size() == 2);
  // Without a good one the first damage is reported.
  CHECK(mentions(load_error(folder / "last"), (folder / "last" / "state.json").string()));
  fs::remove_all(folder / "last");
  fs::remove_all(folder / "last.old");
  CHECK(load_checkpoint(folder / "last", expected).manifest.step == 5);
  set_log_sink({});
}

TEST_CASE("saving over a damaged checkpoint keeps the good .old until the new one is in place") {
  const Folder folder;
  for (const bool last_is_good : {true, false}) {
    const auto prepare = [&] {
      remove_checkpoint(folder / "last");
      save(folder / "last", 1);
      fs::copy(folder / "last", folder / "last.old");
      if (!last_is_good) overwrite(folder / "last" / "state.json", "damaged");
    };
    const int calls = calls_of_save(folder, prepare);
    CHECK(loaded_step(folder / "last") == 2);
    for (int n = 1; n <= calls; n++) {
      prepare();
      if (const pid_t child = ::fork(); child == 0) {
        const FaultScope scope(Fault::kExit, n, false, 0);
        save(folder / "last", 2);
        ::_exit(0);
      } else {
        int status = 0;
        REQUIRE(::waitpid(child, &status, 0) == child);
        REQUIRE(WEXITSTATUS(status) == 77);
      }
      CAPTURE(n);
      const int64_t step = loaded_step(folder / "last");
      CHECK((step == 1 || step == 2));
      save(folder / "last", 3);
      CHECK(loaded_step(folder / "last") == 3);
      CHECK_FALSE(fs::exists(folder / "last.old"));
    }
  }
}

TEST_CASE("killed at any system call of a save, the old or the new checkpoint loads, and the next save works") {
  const Folder folder;
  const auto prepare = [&] {
    remove_checkpoint(folder / "last");
    save(folder / "last", 1);
  };
  const int calls = calls_of_save(folder, prepare);
  CHECK(calls >= 20);
  int old_loaded = 0, new_loaded = 0;
  for (int n = 1; n <= calls; n++) {
    prepare();
    const pid_t child = ::fork();
    if (child == 0) {
      const FaultScope scope(Fault::kExit, n, false, 0);
      save(folder / "last", 2);
      ::_exit(0);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WEXITSTATUS(status) == 77);
    CAPTURE(n);
    const int64_t step = loaded_step(folder / "last");
    CHECK((step == 1 || step == 2));
    (step == 1 ? old_loaded : new_loaded)++;
    save(folder / "last", 3);
    CHECK(loaded_step(folder / "last") == 3);
    check_no_rest(folder.path);
    CHECK_FALSE(fs::exists(folder / "last.old"));
  }
  CHECK(old_loaded > 10);
  CHECK(new_loaded > 2);
}

TEST_CASE("a call that fails, once or from then on, leaves a checkpoint that loads and one clear error") {
  const Folder folder;
  const auto prepare = [&] {
    remove_checkpoint(folder / "last");
    save(folder / "last", 1);
  };
  const int calls = calls_of_save(folder, prepare);
  for (const bool persistent : {false, true}) {
    for (const int error : {ENOSPC, EIO}) {
      int failed = 0;
      for (int n = 1; n <= calls; n++) {
        prepare();
        bool threw = false;
        {
          const FaultScope scope(Fault::kFail, n, persistent, error);
          try {
            save(folder / "last", 2);
          } catch (const Error& e) {
            threw = true;
            failed++;
            CHECK(e.kind() == ErrorKind::kWrite);
            if (error == ENOSPC) CHECK(mentions(e.what(), "the disk must have room"));
          }
        }
        CAPTURE(n);
        CAPTURE(persistent);
        const int64_t step = loaded_step(folder / "last");
        // A save that returned must have saved.
        if (!threw) CHECK(step == 2);
        CHECK((step == 1 || step == 2));
        if (!persistent) check_no_rest(folder.path);
        save(folder / "last", 3);
        CHECK(loaded_step(folder / "last") == 3);
      }
      CHECK(failed > calls / 2);
    }
  }
}

TEST_CASE("the first save ever that fails leaves no half checkpoint") {
  const Folder folder;
  int calls = 0;
  {
    const FaultScope scope(Fault::kNone, 0, false, 0);
    save(folder / "last", 1);
    calls = plan.calls;
  }
  for (int n = 1; n <= calls; n++) {
    remove_checkpoint(folder / "last");
    bool threw = false;
    {
      const FaultScope scope(Fault::kFail, n, false, ENOSPC);
      try {
        save(folder / "last", 1);
      } catch (const Error&) {
        threw = true;
      }
    }
    CAPTURE(n);
    if (checkpoint_exists(folder / "last")) {
      CHECK(loaded_step(folder / "last") == 1);
    } else {
      CHECK(threw);
    }
    check_no_rest(folder.path);
  }
}

TEST_CASE("every file and folder is synced before the rename that relies on it") {
  const Folder folder;
  save(folder / "last", 1);
  static std::vector<std::string> calls;
  static std::map<int, std::string> open_files;
  calls.clear();
  IoCalls c = default_io_calls();
  c.open = [](const char* p, int flags, mode_t mode) {
    const int fd = ::open(p, flags, mode);
    open_files[fd] = fs::path(p).filename().string();
    return fd;
  };
  c.write = [](int fd, const void* data, size_t n) {
    calls.push_back("write " + open_files[fd]);
    return ::write(fd, data, n);
  };
  c.fsync = [](int fd) {
    calls.push_back("fsync " + open_files[fd]);
    return ::fsync(fd);
  };
  c.rename = [](const char* a, const char* b) {
    calls.push_back("rename " + fs::path(b).filename().string());
    return ::rename(a, b);
  };
  c.unlink = [](const char* p) {
    calls.push_back("unlink " + fs::path(p).filename().string());
    return ::unlink(p);
  };
  io_calls() = c;
  save(folder / "last", 2);
  io_calls() = default_io_calls();
  const std::string parent = folder.path.filename().string();
  const std::string fresh = "last.tmp-" + std::to_string(::getpid());
  const std::vector<std::string> want = {
      "write model.safetensors", "fsync model.safetensors", "write optimizer.safetensors",
      "fsync optimizer.safetensors", "write state.json", "fsync state.json", "write manifest.json",
      "fsync manifest.json", "fsync " + fresh, "rename last.old", "fsync " + parent, "rename last", "fsync " + parent};
  REQUIRE(calls.size() == want.size() + 4);  // then the four files of .old go
  CHECK(std::vector<std::string>(calls.begin(), calls.begin() + static_cast<int64_t>(want.size())) == want);
}

TEST_CASE("former checkpoints are kept under their step, the newest ones only, and serve as fall-backs") {
  const Folder folder;
  const auto last = folder / "last";
  for (const int64_t step : {3, 12, 150, 1000, 1001}) save_checkpoint(last, files_of(step), manifest_of(step), 2);
  CHECK(loaded_step(last) == 1001);
  const auto former = former_checkpoints(last);
  REQUIRE(former.size() == 2);
  CHECK(former[0].filename() == "last-000001000");
  CHECK(former[1].filename() == "last-000000150");
  CHECK(loaded_step(former[0]) == 1000);
  overwrite(last / "model.safetensors", "rubbish");
  overwrite(former[0] / "state.json", "rubbish");
  const Checkpoint c = load_checkpoint(last, {.model = "", .files = {}, .fallback = former});
  CHECK(c.manifest.step == 150);
  CHECK(c.fell_back);
  // A save again with a step that is kept already.
  save(last, 1000);
  save_checkpoint(last, files_of(1002), manifest_of(1002), 2);
  CHECK(loaded_step(former_checkpoints(last)[0]) == 1000);
  remove_checkpoint(last);
  CHECK(fs::is_empty(folder.path));
}

namespace {

// --- Power loss -------------------------------------------------------------

// One system call that changes the disk.
struct Logged {
  enum Kind { kCreate, kWrite, kSync, kRename, kMkdir, kUnlink, kRmdir } kind;
  fs::path path, to;
  std::string data;
};
std::vector<Logged> log_of_calls;
std::map<int, fs::path> opened;

IoCalls logging_calls() {
  IoCalls c = default_io_calls();
  c.open = [](const char* p, int flags, mode_t mode) {
    const int fd = ::open(p, flags, mode);
    opened[fd] = p;
    if (flags & O_CREAT) log_of_calls.push_back({Logged::kCreate, p, {}, {}});
    return fd;
  };
  c.write = [](int fd, const void* data, size_t n) {
    log_of_calls.push_back({Logged::kWrite, opened[fd], {}, std::string(static_cast<const char*>(data), n)});
    return ::write(fd, data, n);
  };
  c.fsync = [](int fd) {
    log_of_calls.push_back({Logged::kSync, opened[fd], {}, {}});
    return ::fsync(fd);
  };
  c.rename = [](const char* a, const char* b) {
    log_of_calls.push_back({Logged::kRename, a, b, {}});
    return ::rename(a, b);
  };
  c.mkdir = [](const char* p, mode_t m) {
    log_of_calls.push_back({Logged::kMkdir, p, {}, {}});
    return ::mkdir(p, m);
  };
  c.unlink = [](const char* p) {
    log_of_calls.push_back({Logged::kUnlink, p, {}, {}});
    return ::unlink(p);
  };
  c.rmdir = [](const char* p) {
    log_of_calls.push_back({Logged::kRmdir, p, {}, {}});
    return ::rmdir(p);
  };
  return c;
}

// What is on the disk after power goes away behind the first `count` calls: what
// was synced is there, of the rest anything may be, in any order. `chance`
// decides; a write that was not synced arrives whole, by half or not at all.
void replay(const std::vector<Logged>& calls, size_t count, Rng& chance) {
  const auto synced = [&](size_t i, const fs::path& what) {
    for (size_t k = i + 1; k < count; k++) {
      if (calls[k].kind == Logged::kSync && calls[k].path == what) return true;
    }
    return false;
  };
  std::error_code ec;
  for (size_t i = 0; i < count; i++) {
    const Logged& c = calls[i];
    if (c.kind == Logged::kSync) continue;
    if (c.kind == Logged::kWrite) {
      if (!fs::exists(c.path, ec)) continue;
      std::string data = c.data;
      if (!synced(i, c.path)) data.resize(data.size() * chance.below(3) / 2);
      std::ofstream(c.path, std::ios::binary | std::ios::app) << data;
      continue;
    }
    // Entries belong to the folder that holds them.
    const bool done = synced(i, c.path.parent_path()) || chance.flip();
    if (!done) continue;
    switch (c.kind) {
      case Logged::kCreate: {
        if (fs::is_directory(c.path.parent_path(), ec)) std::ofstream(c.path, std::ios::binary | std::ios::trunc);
        break;
      }
      case Logged::kRename: ::rename(c.path.c_str(), c.to.c_str()); break;
      case Logged::kMkdir: ::mkdir(c.path.c_str(), 0777); break;
      case Logged::kUnlink: ::unlink(c.path.c_str()); break;
      case Logged::kRmdir: ::rmdir(c.path.c_str()); break;
      default: break;
    }
  }
}

}  // namespace

TEST_CASE("power loss behind any system call of a save leaves the old or the new checkpoint") {
  const Folder folder;
  const auto last = folder / "last";
  const fs::path kept = folder.path.string() + "-kept";
  const auto prepare = [&] {
    fs::remove_all(folder.path);
    fs::copy(kept, folder.path, fs::copy_options::recursive);
  };
  for (const int former : {0, 2}) {
    fs::remove_all(folder.path);
    fs::create_directories(folder.path);
    for (const int64_t step : {1, 2, 3}) save_checkpoint(last, files_of(step), manifest_of(step), former);
    fs::remove_all(kept);
    fs::copy(folder.path, kept, fs::copy_options::recursive);
    log_of_calls.clear();
    io_calls() = logging_calls();
    save_checkpoint(last, files_of(4), manifest_of(4), former);
    io_calls() = default_io_calls();
    const std::vector<Logged> calls = log_of_calls;
    REQUIRE(calls.size() > 20);
    int old_ones = 0, new_ones = 0;
    for (size_t count = 0; count <= calls.size(); count++) {
      for (uint64_t draw = 0; draw < 12; draw++) {
        CAPTURE(former);
        CAPTURE(count);
        CAPTURE(draw);
        prepare();
        Rng chance(draw, "power loss", count);
        replay(calls, count, chance);
        const int64_t step = loaded_step(last);
        CHECK((step == 3 || step == 4));
        (step == 3 ? old_ones : new_ones)++;
        if (count == calls.size()) CHECK(step == 4);
        // And the next save works.
        if (draw == 0) {
          save_checkpoint(last, files_of(5), manifest_of(5), former);
          CHECK(loaded_step(last) == 5);
        }
      }
    }
    CHECK(old_ones > 100);
    CHECK(new_ones > 20);
  }
  fs::remove_all(kept);
}

TEST_CASE("too little free space is refused before anything is written") {
  const Folder folder;
  save(folder / "last", 1);
  io_calls().statvfs = [](const char*, struct statvfs* out) {
    *out = {};
    out->f_blocks = 1000;
    out->f_bavail = 1;
    out->f_frsize = 512;
    return 0;
  };
  std::string message;
  try {
    save(folder / "last", 2);
  } catch (const Error& e) {
    CHECK(e.kind() == ErrorKind::kWrite);
    message = e.what();
  }
  io_calls() = default_io_calls();
  CHECK(mentions(message, "free, twice the size of the checkpoint; got 512 B"));
  CHECK(loaded_step(folder / "last") == 1);
}

TEST_CASE("temporary folders of dead processes go, those of living ones stay") {
  const Folder folder;
  const pid_t dead = ::fork();
  if (dead == 0) ::_exit(0);
  ::waitpid(dead, nullptr, 0);
  const std::string dead_name = "last.tmp-" + std::to_string(dead);
  const std::string living_name = "last.tmp-" + std::to_string(::getppid());
  for (const auto& name : {dead_name, living_name, std::string("last.tmp-x"), std::string("best.tmp-1")}) {
    fs::create_directories(folder.path / name / "deep");
    overwrite(folder.path / name / "file", "x");
  }
  save(folder / "last", 1);
  CHECK_FALSE(fs::exists(folder.path / dead_name));
  CHECK(fs::exists(folder.path / living_name));
  CHECK(fs::exists(folder.path / "last.tmp-x"));
  CHECK(fs::exists(folder.path / "best.tmp-1"));
}

TEST_CASE("a folder that cannot be written gives a write error") {
  const Folder folder;
  overwrite(folder / "file", "x");
  CHECK_THROWS_WITH_AS(save(folder / "file" / "last", 1), doctest::Contains("file"), Error);
  if (::geteuid() != 0) {
    fs::permissions(folder.path, fs::perms::owner_read | fs::perms::owner_exec);
    CHECK_THROWS_WITH_AS(save(folder / "last", 1), doctest::Contains("allowed to write"), Error);
    fs::permissions(folder.path, fs::perms::owner_all);
  }
}
