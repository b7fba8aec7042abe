#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "aspis/base/file.h"

namespace aspis::train {

/// The folder of a run (see docs in README): config.toml, environment.json,
/// command.txt, log.txt, metrics.*, checkpoints/{last,best}, status.json,
/// report.html. One process at a time holds it, by a lock file.
class RunFolder {
 public:
  /// Creates and locks the folder. `must_be_new` refuses one that holds a run
  /// already. Throws Error(kBusy) if another process has it or it cannot be
  /// created, Error(kUsage) if it holds a run and must be new.
  RunFolder(std::filesystem::path path, bool must_be_new);

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path file(const char* name) const { return path_ / name; }
  std::filesystem::path last() const { return path_ / "checkpoints" / "last"; }
  std::filesystem::path best() const { return path_ / "checkpoints" / "best"; }

  /// Appends a line with a time stamp to log.txt.
  void log(std::string_view line);

 private:
  std::filesystem::path path_;
  std::unique_ptr<FileLock> lock_;
  std::unique_ptr<AppendFile> log_;
};

/// True if the folder holds what a run leaves there.
bool holds_run(const std::filesystem::path& path);

/// Facts about the machine and the build as JSON: time, version, commit, engine,
/// CPU, instruction set, threads, memory, seed.
std::string environment_json(uint64_t seed);

/// Version of the library and commit it was built from.
std::string version();
std::string commit();

}  // namespace aspis::train
