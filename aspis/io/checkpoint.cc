#include "aspis/io/checkpoint.h"

#include <fmt/format.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): kill() is in the POSIX header only
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "aspis/base/clock.h"
#include "aspis/base/error.h"
#include "aspis/base/file.h"
#include "aspis/base/io_calls.h"
#include "aspis/base/log.h"
#include "aspis/base/utf8.h"
#include "aspis/io/json_strict.h"

namespace aspis {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kManifestName = "manifest.json";
constexpr const char* kKind = "aspis checkpoint";
constexpr int64_t kManifestLimit = int64_t{16} << 20;

struct FileFacts {
  std::string name;
  int64_t bytes = 0;
  std::string sha256;
};

// --- Folders -----------------------------------------------------------------

// "checkpoints/last/" and "checkpoints/last" are the same folder.
fs::path normal(const fs::path& folder) {
  fs::path p = folder.lexically_normal();
  if (!p.has_filename()) p = p.parent_path();
  return p;
}
fs::path parent_of(const fs::path& folder) { return folder.has_parent_path() ? folder.parent_path() : fs::path("."); }
fs::path with_suffix(const fs::path& folder, const std::string& suffix) {
  return parent_of(folder) / (folder.filename().string() + suffix);
}
fs::path old_of(const fs::path& folder) { return with_suffix(folder, ".old"); }

bool is_folder(const fs::path& path) {
  std::error_code ec;
  return fs::is_directory(path, ec);
}

void make_folders(const fs::path& path) {
  if (path.empty() || is_folder(path)) return;
  if (path.has_parent_path() && path.parent_path() != path) make_folders(path.parent_path());
  if (io_calls().mkdir(path.c_str(), 0777) != 0 && !(errno == EEXIST && is_folder(path))) {
    throw_write_error(path, "mkdir", errno);
  }
}

// Removes as much as it can; returns false with errno set if something stays.
bool remove_tree(const fs::path& path) {
  bool ok = true;
  int error = 0;
  const auto note = [&](int rc) {
    if (rc != 0 && errno != ENOENT) {
      ok = false;
      error = errno;
    }
  };
  std::error_code ec;
  if (fs::is_directory(fs::symlink_status(path, ec))) {
    std::vector<fs::path> entries;
    for (auto it = fs::directory_iterator(path, ec); !ec && it != fs::directory_iterator(); it.increment(ec)) {
      entries.push_back(it->path());
    }
    for (const auto& entry : entries) {
      if (!remove_tree(entry)) {
        ok = false;
        error = errno;
      }
    }
    note(io_calls().rmdir(path.c_str()));
  } else {
    note(io_calls().unlink(path.c_str()));
  }
  errno = error;
  return ok;
}

// Temporary folders of processes that are gone, and of this one.
void remove_stale(const fs::path& folder) {
  const std::string prefix = folder.filename().string() + ".tmp-";
  std::error_code ec;
  std::vector<fs::path> stale;
  for (auto it = fs::directory_iterator(parent_of(folder), ec); !ec && it != fs::directory_iterator();
       it.increment(ec)) {
    const std::string name = it->path().filename().string();
    if (name.compare(0, prefix.size(), prefix) != 0) continue;
    const std::string digits = name.substr(prefix.size());
    pid_t pid = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), pid);
    if (error != std::errc() || end != digits.data() + digits.size() || pid <= 0) continue;
    if (pid == ::getpid() || (::kill(pid, 0) != 0 && errno == ESRCH)) stale.push_back(it->path());
  }
  for (const auto& path : stale) {
    if (!remove_tree(path)) {
      log_warning("io", fmt::format("{} could not be removed: {}", path.string(), std::strerror(errno)));
    }
  }
}

void require_space(const fs::path& folder, int64_t bytes) {
  struct statvfs info {};
  if (io_calls().statvfs(parent_of(folder).c_str(), &info) != 0) return;  // the writes will tell
  if (info.f_blocks == 0) return;                                         // a file system that does not count
  const double free = static_cast<double>(info.f_bavail) * static_cast<double>(info.f_frsize);
  const double needed = 2.0 * static_cast<double>(bytes);
  if (free >= needed) return;
  throw Error(ErrorKind::kWrite, {.where = folder.string(),
                                  .required = fmt::format("the disk must have {} free, twice the size of the checkpoint",
                                                          format_bytes(needed)),
                                  .got = format_bytes(free),
                                  .hint = "free some space or choose another folder"});
}

// --- Manifest ----------------------------------------------------------------

// The last lines of the manifest hold the hash of what it would be without
// them, so that a flipped byte in it is found as well:
//   {
//     ...            <- body, which ends with "\n}\n"
//   ,
//     "sha256": "<64 digits>"
//   }
constexpr std::string_view kSealHead = ",\n  \"sha256\": \"";
constexpr std::string_view kSealTail = "\"\n}\n";
constexpr std::string_view kBodyTail = "\n}\n";
constexpr size_t kHashDigits = 64;

std::string seal(std::string body) {
  const std::string hash = sha256_hex(body);
  body.resize(body.size() - kBodyTail.size());
  body += kSealHead;
  body += hash;
  body += kSealTail;
  return body;
}

// The body of a sealed manifest, or nothing if the seal is broken.
std::optional<std::string> unseal(std::string_view text) {
  const size_t seal_size = kSealHead.size() + kHashDigits + kSealTail.size();
  if (text.size() < seal_size) return std::nullopt;
  std::string body(text.substr(0, text.size() - seal_size));
  body += kBodyTail;
  if (seal(body) != text) return std::nullopt;
  return body;
}

std::string manifest_text(const CheckpointManifest& m, std::span<const CheckpointFile> files) {
  Json j;
  j["kind"] = kKind;
  j["format"] = m.format;
  j["model"] = m.model;
  j["step"] = m.step;
  j["info"] = m.info.empty() ? Json::object() : Json(m.info);
  j["files"] = Json::array();
  for (const auto& f : files) {
    j["files"].push_back({{"name", f.name}, {"bytes", f.bytes.size()}, {"sha256", sha256_hex(f.bytes)}});
  }
  return seal(j.dump(2) + "\n");
}

bool plain_file_name(std::string_view name) {
  const bool letters = std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  });
  return letters && !name.empty() && name.size() <= 200 && name.front() != '.' && name != kManifestName;
}

void check_saveable(std::span<const CheckpointFile> files, const CheckpointManifest& m) {
  const auto fail = [](std::string required, std::string got) {
    throw Error(ErrorKind::kUsage,
                {.where = "save_checkpoint", .required = std::move(required), .got = std::move(got), .hint = {}});
  };
  std::set<std::string_view> names;
  for (const auto& f : files) {
    if (!plain_file_name(f.name)) fail("a file name must be plain", "'" + f.name + "'");
    if (!names.insert(f.name).second) fail("each file needs its own name", "'" + f.name + "' twice");
  }
  bool utf8 = is_valid_utf8(m.model);
  for (const auto& [key, value] : m.info) utf8 = utf8 && is_valid_utf8(key) && is_valid_utf8(value);
  if (!utf8) fail("the manifest must be UTF-8", "other bytes");
  if (m.step < 0) fail("the step must not be negative", fmt::format("{}", m.step));
}

// Damage may be answered with an older checkpoint; everything else may not.
struct Damaged {
  Error error;
};

[[noreturn]] void damaged(const fs::path& path, std::string required, std::string got) {
  throw Damaged{Error(ErrorKind::kModel, {.where = path.string(),
                                          .required = std::move(required),
                                          .got = std::move(got),
                                          .hint = "use an older checkpoint; this one is damaged"})};
}

std::string read_or_damaged(const fs::path& path, int64_t limit) {
  try {
    return read_file(path, ErrorKind::kModel, limit);
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::kModel) throw;
    throw Damaged{e};
  }
}

struct Manifest {
  CheckpointManifest facts;
  std::vector<FileFacts> files;
};

[[noreturn]] void fail_newer(const fs::path& path, int64_t format) {
  throw Error(ErrorKind::kModel,
              {.where = path.string(),
               .required = fmt::format("the checkpoint must have format {} or older", kCheckpointFormat),
               .got = fmt::format("format {}", format),
               .hint = "load it with a newer version of Aspis"});
}

// Reads the facts out of a manifest whose seal holds. The checks guard against
// files that were made by hand.
Manifest parse_manifest(const Json& j, const fs::path& path) {
  const auto need = [&](bool ok, const char* what) {
    if (!ok) damaged(path, std::string("the manifest must have ") + what, "something else");
  };
  need(j.is_object() && j.contains("kind") && j["kind"] == kKind, "kind \"aspis checkpoint\"");
  need(j.contains("format") && j["format"].is_number_integer(), "an integer format");
  const auto format = j["format"].get<int64_t>();
  if (format > kCheckpointFormat) fail_newer(path, format);
  need(format >= 1, "a format of 1 or more");
  need(j.contains("model") && j["model"].is_string(), "the name of a model");
  need(j.contains("step") && j["step"].is_number_integer() && j["step"].get<int64_t>() >= 0, "a step");
  need(j.contains("info") && j["info"].is_object(), "an object info");
  need(j.contains("files") && j["files"].is_array(), "a list of files");

  Manifest m;
  m.facts.format = static_cast<int>(format);
  m.facts.model = j["model"].get<std::string>();
  m.facts.step = j["step"].get<int64_t>();
  for (const auto& [key, value] : j["info"].items()) {
    need(value.is_string(), "strings in info");
    m.facts.info[key] = value.get<std::string>();
  }
  std::set<std::string> names;
  for (const Json& f : j["files"]) {
    need(f.is_object() && f.contains("name") && f["name"].is_string() && f.contains("bytes") &&
             f["bytes"].is_number_integer() && f.contains("sha256") && f["sha256"].is_string(),
         "name, bytes and sha256 of each file");
    FileFacts facts{f["name"].get<std::string>(), f["bytes"].get<int64_t>(), f["sha256"].get<std::string>()};
    need(plain_file_name(facts.name) && names.insert(facts.name).second && facts.bytes >= 0, "plain file names");
    m.files.push_back(std::move(facts));
  }
  return m;
}

Manifest load_manifest(const fs::path& folder) {
  const fs::path path = folder / kManifestName;
  const std::string text = read_or_damaged(path, kManifestLimit);
  const auto body = unseal(text);
  Json j;
  try {
    j = parse_json_strict(body ? *body : text, path.string(), ErrorKind::kModel, {.bytes = kManifestLimit, .depth = 8});
  } catch (const Error& e) {
    throw Damaged{e};
  }
  if (!body) {
    // A future format may be sealed in another way; say so rather than "damaged".
    if (j.is_object() && j.contains("format") && j["format"].is_number_integer() &&
        j["format"].get<int64_t>() > kCheckpointFormat) {
      try {
        fail_newer(path, j["format"].get<int64_t>());
      } catch (const Error& e) {
        throw Damaged{e};
      }
    }
    damaged(path, "the manifest must agree with its own SHA-256", "another one");
  }
  return parse_manifest(j, path);
}

std::string load_verified(const fs::path& path, const FileFacts& facts) {
  std::error_code ec;
  const auto size = fs::file_size(path, ec);
  if (ec) damaged(path, "the file must be there, its manifest names it", ec.message());
  if (static_cast<int64_t>(size) != facts.bytes) {
    damaged(path, fmt::format("the file must have the {} bytes of its manifest", facts.bytes),
            fmt::format("{}", size));
  }
  std::string bytes = read_or_damaged(path, facts.bytes);
  if (static_cast<int64_t>(bytes.size()) != facts.bytes || sha256_hex(bytes) != facts.sha256) {
    damaged(path, "the file must have the SHA-256 of its manifest", "another one");
  }
  return bytes;
}

Checkpoint load_one(const fs::path& folder, const CheckpointExpected& expected) {
  const Manifest m = load_manifest(folder);
  if (!expected.model.empty() && m.facts.model != expected.model) {
    throw Error(ErrorKind::kModel, {.where = folder.string(),
                                    .required = fmt::format("the checkpoint must be of model '{}'", expected.model),
                                    .got = fmt::format("one of model '{}'", m.facts.model),
                                    .hint = "name that model, or load another checkpoint"});
  }
  const auto wanted = [&](const std::string& name) {
    return expected.files.empty() ||
           std::find(expected.files.begin(), expected.files.end(), name) != expected.files.end();
  };
  for (const auto& name : expected.files) {
    const bool there = std::any_of(m.files.begin(), m.files.end(), [&](const auto& f) { return f.name == name; });
    if (!there) damaged(folder, fmt::format("the checkpoint must hold the file {}", name), "none of that name");
  }
  Checkpoint c;
  c.manifest = m.facts;
  c.folder = folder;
  for (const auto& facts : m.files) {
    if (wanted(facts.name)) c.files.push_back({facts.name, load_verified(folder / facts.name, facts)});
  }
  return c;
}

// Tries `load` on the folder, its .old and the fallbacks.
template <typename Load>
auto load_first(const fs::path& folder, const std::vector<fs::path>& fallback, Load&& load)
    -> decltype(load(folder)) {
  std::vector<fs::path> candidates = {normal(folder), old_of(normal(folder))};
  for (const auto& f : fallback) candidates.push_back(normal(f));
  std::optional<Error> first;
  for (const auto& candidate : candidates) {
    if (!is_folder(candidate)) continue;
    try {
      auto result = load(candidate);
      if (candidate != candidates[0]) {
        log_warning("io", fmt::format("using checkpoint {}: {}", candidate.string(),
                                      first ? first->what() : candidates[0].string() + " is missing"));
      }
      return result;
    } catch (const Damaged& d) {
      if (!first) first = d.error;
    }
  }
  if (first) throw Error(*first);
  throw Error(ErrorKind::kModel,
              {.where = candidates[0].string(), .required = "a checkpoint must be here", .got = "none", .hint = {}});
}

bool verifies(const fs::path& folder) {
  try {
    load_one(folder, {});
    return true;
  } catch (const Damaged&) {
    return false;
  } catch (const Error& e) {
    return e.kind() == ErrorKind::kModel;  // whole, but of a newer format
  }
}

// Keeps what has just been replaced under the number of its step. A failure
// costs a fall-back, not the checkpoint that was saved: a warning.
void keep_former(const fs::path& old, const fs::path& folder, int former) {
  int64_t step = -1;
  try {
    step = load_manifest(old).facts.step;
  } catch (const Damaged&) {
  } catch (const Error&) {
  }
  const fs::path kept = with_suffix(folder, fmt::format("-{:09}", step));
  const bool moved = step >= 0 && (!is_folder(kept) || remove_tree(kept)) &&
                     io_calls().rename(old.c_str(), kept.c_str()) == 0;
  bool ok = moved || remove_tree(old);
  const auto all = former_checkpoints(folder);
  for (size_t i = static_cast<size_t>(former); i < all.size(); i++) ok = remove_tree(all[i]) && ok;
  if (!ok) log_warning("io", fmt::format("former checkpoints of {}: {}", folder.string(), std::strerror(errno)));
}

void must_rename(const fs::path& from, const fs::path& to) {
  if (io_calls().rename(from.c_str(), to.c_str()) != 0) throw_write_error(to, "rename", errno);
}

// Puts the finished folder `fresh` in the place of `folder`.
void swap_in(const fs::path& fresh, const fs::path& folder) {
  const fs::path old = old_of(folder);
  if (is_folder(folder)) {
    // An .old that is still there is the trace of a crash. It goes if the
    // present checkpoint is whole; else the present one goes and .old stays.
    const bool keep_old = is_folder(old) && !verifies(folder);
    const fs::path& victim = keep_old ? folder : old;
    if (is_folder(victim) && !remove_tree(victim)) throw_write_error(victim, "unlink", errno);
    if (!keep_old) {
      must_rename(folder, old);
      sync_folder(parent_of(folder));
    }
  }
  must_rename(fresh, folder);
}

}  // namespace

const std::string& Checkpoint::file(std::string_view name) const {
  for (const auto& f : files) {
    if (f.name == name) return f.bytes;
  }
  throw Error(ErrorKind::kModel, {.where = folder.string(),
                                  .required = fmt::format("the checkpoint must hold the file {}", name),
                                  .got = "none of that name",
                                  .hint = {}});
}

void save_checkpoint(const fs::path& folder_given, std::span<const CheckpointFile> files,
                     const CheckpointManifest& manifest, int former) {
  check_saveable(files, manifest);
  const fs::path folder = normal(folder_given);
  const fs::path parent = parent_of(folder), old = old_of(folder);
  make_folders(parent);
  remove_stale(folder);
  const std::string text = manifest_text(manifest, files);
  int64_t total = static_cast<int64_t>(text.size());
  for (const auto& f : files) total += static_cast<int64_t>(f.bytes.size());
  require_space(folder, total);

  const fs::path fresh = with_suffix(folder, ".tmp-" + std::to_string(::getpid()));
  try {
    if (io_calls().mkdir(fresh.c_str(), 0777) != 0) throw_write_error(folder, "mkdir", errno);
    for (const auto& f : files) write_file_synced(fresh / f.name, f.bytes);
    write_file_synced(fresh / kManifestName, text);
    sync_folder(fresh);
    swap_in(fresh, folder);
  } catch (...) {
    // Back to where we began; what cannot be undone is found by the loader.
    if (!is_folder(folder) && is_folder(old)) io_calls().rename(old.c_str(), folder.c_str());
    remove_tree(fresh);
    throw;
  }
  sync_folder(parent);
  if (former > 0 && is_folder(old)) {
    keep_former(old, folder, former);
  } else if (is_folder(old) && !remove_tree(old)) {
    log_warning("io", fmt::format("{} could not be removed: {}", old.string(), std::strerror(errno)));
  }
}

std::vector<fs::path> former_checkpoints(const fs::path& folder_given) {
  const fs::path folder = normal(folder_given);
  const std::string prefix = folder.filename().string() + "-";
  std::vector<std::pair<int64_t, fs::path>> found;
  std::error_code ec;
  for (auto it = fs::directory_iterator(parent_of(folder), ec); !ec && it != fs::directory_iterator();
       it.increment(ec)) {
    const std::string name = it->path().filename().string();
    if (name.compare(0, prefix.size(), prefix) != 0 || !is_folder(it->path())) continue;
    const std::string digits = name.substr(prefix.size());
    int64_t step = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), step);
    if (error == std::errc() && end == digits.data() + digits.size() && step >= 0) found.emplace_back(step, it->path());
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<fs::path> paths;
  paths.reserve(found.size());
  for (auto& [step, path] : found) paths.push_back(std::move(path));
  return paths;
}

Checkpoint load_checkpoint(const fs::path& folder, const CheckpointExpected& expected) {
  Checkpoint c = load_first(folder, expected.fallback, [&](const fs::path& f) { return load_one(f, expected); });
  c.fell_back = c.folder != normal(folder);
  return c;
}

CheckpointManifest read_checkpoint_manifest(const fs::path& folder) {
  return load_first(folder, {}, [](const fs::path& f) { return load_manifest(f).facts; });
}

bool checkpoint_exists(const fs::path& folder) { return is_folder(normal(folder)) || is_folder(old_of(normal(folder))); }

void remove_checkpoint(const fs::path& folder_given) {
  const fs::path folder = normal(folder_given);
  remove_stale(folder);
  // .old first: a crash in between must not bring an older one back.
  std::vector<fs::path> all = former_checkpoints(folder);
  std::reverse(all.begin(), all.end());  // oldest first, like .old below
  all.push_back(old_of(folder));
  all.push_back(folder);
  for (const auto& path : all) {
    if (is_folder(path) && !remove_tree(path)) throw_write_error(path, "unlink", errno);
  }
}

}  // namespace aspis
