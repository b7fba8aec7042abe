#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "aspis/nn/module.h"

namespace aspis {

/// What a layer or a model remembers between calls: named arrays whose first axis
/// counts the sequences of the batch. A value: arrays never change, so a copy is a
/// second handle and costs nothing.
///
/// | kind      | arrays                                                                                |
/// |-----------|---------------------------------------------------------------------------------------|
/// | mamba1    | conv {S, W-1, inner}, ssm {S, inner, N}                                               |
/// | mamba2    | conv {S, W-1, inner + 2 G N}, ssm {S, H, P, N}                                        |
/// | mamba3    | angle {S, H, A}, ssm {S, H, P, N}, k {S, R, H, N}, v {S, H, P}                        |
///
/// The state of a stack of layers has names with the layer in front, "3.conv".
class State {
 public:
  /// Throws Error(kUsage) unless there is an array and all have the same first axis.
  State(std::string kind, NamedArrays arrays);

  const std::string& kind() const { return kind_; }
  const NamedArrays& arrays() const { return arrays_; }
  /// Sequences.
  int64_t batch() const { return arrays_.front().second.shape(0); }
  int64_t bytes() const;
  /// Throws Error(kUsage) with the names that there are for another one.
  const mx::array& at(std::string_view name) const;

  /// The sequences with these numbers, in this order; a number may come twice.
  /// Throws Error(kUsage) for numbers outside [0, batch()).
  State gather(const std::vector<int32_t>& sequences) const;
  /// Every sequence `copies` times in a row, to go on in several ways from here.
  State fork(int copies) const;
  /// One state for each sequence.
  std::vector<State> split() const;
  /// The sequences of all of them, one after another. Throws Error(kUsage) if
  /// there is none, or kinds, names, shapes or dtypes differ.
  static State stack(const std::vector<State>& states);

  /// The arrays as a safetensors file, written aside, synced and renamed.
  void save(const std::filesystem::path& path) const;
  /// Throws Error(kModel) for files that are damaged or hold no state, and those
  /// of another kind if `kind` is given.
  static State load(const std::filesystem::path& path, std::string_view kind = {});

  /// Throws Error(kUsage) unless kind, names and shapes behind the batch are those of `like`.
  void require_like(const State& like, std::string_view where) const;

 private:
  std::string kind_;
  NamedArrays arrays_;
};

}  // namespace aspis
