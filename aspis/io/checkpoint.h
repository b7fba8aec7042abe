#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace aspis {

/// The newest checkpoint format that this program writes and reads.
inline constexpr int kCheckpointFormat = 1;

/// One file of a checkpoint folder, e.g. "model.safetensors".
struct CheckpointFile {
  std::string name;  ///< letters, digits and "._-" only; not "manifest.json"
  std::string bytes;
};

/// What a checkpoint says of itself, next to the sizes and hashes of its files.
struct CheckpointManifest {
  int format = kCheckpointFormat;
  std::string model;  ///< name of the model or of the config's model_type
  int64_t step = 0;
  std::map<std::string, std::string> info;  ///< free facts: version, threads, dtype
};

/// A checkpoint in memory, verified.
struct Checkpoint {
  CheckpointManifest manifest;
  std::vector<CheckpointFile> files;
  std::filesystem::path folder;  ///< where it was found
  bool fell_back = false;        ///< true if that is not the folder asked for

  /// The bytes of a file; throws Error(kModel) if the checkpoint has none of that name.
  const std::string& file(std::string_view name) const;
};

/// What a loader wants.
struct CheckpointExpected {
  std::string model;                            ///< refuse another one; "" takes any
  std::vector<std::string> files;               ///< read and verify these only; empty reads all
  std::vector<std::filesystem::path> fallback;  ///< older checkpoints, newest first
};

/// Writes a checkpoint folder so that a crash, a kill or a full disk at any
/// moment leaves the former checkpoint or the new one loadable, never neither:
///
///   <name>.tmp-<pid>/ with every file and manifest.json (sizes, SHA-256), all
///   written, fsynced and closed with every result checked; fsync of that
///   folder; an existing <name> renamed to <name>.old; the new one renamed to
///   <name>; fsync of the parent; <name>.old removed, or with `former` > 0
///   renamed to <name>-<its step>, of which the newest `former` stay.
///
/// Removes what earlier crashes left (temporary folders of processes that are
/// gone). Asks first whether twice the size is free. The parent folder is
/// created if it is missing. Equal input gives equal bytes. One process at a
/// time may save into a folder (see FileLock). Throws Error(kWrite), after
/// removing what it wrote.
void save_checkpoint(const std::filesystem::path& folder, std::span<const CheckpointFile> files,
                     const CheckpointManifest& manifest, int former = 0);

/// The former checkpoints that saves of `folder` have kept, newest first: what a
/// loader falls back to.
std::vector<std::filesystem::path> former_checkpoints(const std::filesystem::path& folder);

/// Loads and verifies a checkpoint: sizes and hashes first, then content is
/// handed out. If `folder` is damaged or a crash came between two renames, takes
/// <folder>.old, then `expected.fallback` in order, with a warning in the log.
/// A checkpoint of another model or of a newer format is an error at once.
/// Throws Error(kModel) that names the file and what is wrong with it.
Checkpoint load_checkpoint(const std::filesystem::path& folder, const CheckpointExpected& expected = {});

/// The manifest alone, its own checksum verified; same fallback and errors.
CheckpointManifest read_checkpoint_manifest(const std::filesystem::path& folder);

/// True if there is something to load at `folder` or at <folder>.old; says
/// nothing about its health.
bool checkpoint_exists(const std::filesystem::path& folder);

/// Removes a checkpoint, its former ones and what a crash left of it; missing is no error.
void remove_checkpoint(const std::filesystem::path& folder);

}  // namespace aspis
