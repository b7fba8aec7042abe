#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace aspis {

namespace mx = mlx::core;

/// Arrays with dotted names, in a fixed order: parameters, buffers, checkpoints.
using NamedArrays = std::vector<std::pair<std::string, mx::array>>;

/// How a parameter is treated besides being trained.
enum class Decay { kYes, kNo };

/// A parameter in place, as optimizers see it. The pointer stays valid as long
/// as the module lives; only `value_and_grad` and the module's owner write to it.
struct ParameterRef {
  std::string name;  ///< dotted, from the module it was asked of
  mx::array* value;
  bool trainable;  ///< false after `freeze`
  bool decay;      ///< false for norms, biases, A_log, D, position tables: no weight decay
};

/// A layer or model: named parameters, named buffers and named children.
///
/// A module owns its arrays and children as ordinary members and registers them
/// by name in its constructor. It can be neither copied nor moved, so that the
/// registered addresses hold; owners that need several keep them by
/// `std::unique_ptr`. Order of registration is the order of every list.
///
///     struct Affine : Module {
///       mx::array weight, bias;
///       Affine(...) : weight(...), bias(...) {
///         add_parameter("weight", weight);
///         add_parameter("bias", bias, Decay::kNo);
///       }
///     };
class Module {
 public:
  Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;
  virtual ~Module() = default;

  /// The class as shown in summaries, e.g. "MambaBlock".
  virtual std::string type_name() const = 0;

  /// All parameters with dotted names, depth first in order of registration.
  NamedArrays parameters() const;
  /// Those that are not frozen, in the same order.
  NamedArrays trainable_parameters() const;
  /// Arrays that are saved with the module but never trained.
  NamedArrays buffers() const;
  /// What a checkpoint holds: parameters and buffers.
  NamedArrays state() const;
  /// The parameters in place, the frozen ones included.
  std::vector<ParameterRef> parameter_refs();
  /// The buffers in place.
  std::vector<mx::array*> buffer_refs();

  /// Replaces all trainable parameters, in the order of `trainable_parameters()`.
  /// Shapes must agree. Throws Error(kUsage).
  void update(const std::vector<mx::array>& values);
  /// Replaces the named parameters and buffers; unknown names and other shapes
  /// are an Error(kUsage).
  void update(const NamedArrays& values);

  /// Takes parameters and buffers from a checkpoint. With `strict` every one
  /// must be there and nothing else; without, those that are there are taken.
  /// A shape that differs is always an error. The one Error(kModel) names the
  /// first few tensors that are missing, extra or misshapen and counts the rest;
  /// nothing is changed then. Values are cast to the dtype of the parameter;
  /// axes of size 1 do not count in the comparison of shapes.
  void load(const NamedArrays& values, bool strict = true);

  /// Stops training of the parameters whose dotted name matches the glob (`*`
  /// any characters, dots included; `?` one). Returns how many match; none is
  /// an Error(kUsage).
  int64_t freeze(std::string_view pattern = "*");
  int64_t unfreeze(std::string_view pattern = "*");

  /// Switches this module and all below between training and inference.
  void train(bool on = true);
  void eval() { train(false); }
  bool training() const { return training_; }

  /// Converts all floating-point parameters and buffers; float64 is for checks
  /// of gradients.
  void cast(mx::Dtype dtype);

  /// Numbers of elements.
  int64_t parameter_count() const;
  int64_t trainable_count() const;
  int64_t parameter_bytes() const;

  struct SummaryRow {
    std::string name;    ///< dotted name of the module, "" for the root
    std::string type;    ///< its type_name()
    std::string shapes;  ///< its own parameters: "weight {64, 32}, bias {64}"
    int depth;           ///< levels below the root
    int64_t parameters;  ///< of its own and of all below
    int64_t trainable;
  };
  /// One row per module, depth first.
  std::vector<SummaryRow> summary_rows() const;
  /// The rows as an aligned table with totals, for people.
  std::string summary(int max_depth = 1000) const;

 protected:
  void add_parameter(std::string name, mx::array& value, Decay decay = Decay::kYes);
  void add_buffer(std::string name, mx::array& value);
  /// `name` may itself be dotted ("blocks.0").
  void add_child(std::string name, Module& child);

 private:
  struct Entry {
    std::string name;
    mx::array* array;  // null for a child
    Module* child;     // null for an array
    bool is_buffer;
    bool decay;
    bool frozen;
  };
  using Visit = std::function<void(const std::string& name, Entry& entry)>;
  void add_entry(Entry entry);
  void visit(const std::string& prefix, const Visit& f);
  void visit(const Visit& f) const;  // entries must not be changed through it
  int64_t set_frozen(std::string_view pattern, bool frozen);
  void append_rows(const std::string& name, int depth, std::vector<SummaryRow>& rows) const;

  std::vector<Entry> entries_;
  bool training_ = true;
};

/// True if `text` matches the glob `pattern` (`*` any run of characters, `?` one).
bool glob_match(std::string_view pattern, std::string_view text);

/// Outputs of a loss function: the scalar loss first, then whatever else the
/// caller wants back (logits, counts), which is not differentiated.
using LossFn = std::function<std::vector<mx::array>(const std::vector<mx::array>& batch)>;

struct ValueAndGrad {
  std::vector<mx::array> values;     ///< what the loss function returned
  std::vector<mx::array> gradients;  ///< in the order of `trainable_parameters()`
};

/// Value and gradients of `fn(batch)` with respect to the trainable parameters
/// of `module`; nothing is evaluated yet. While `fn` runs the module holds
/// traced arrays; afterwards, also when `fn` throws, it holds its own again.
/// Throws Error(kUsage) if nothing is trainable or the first output is not a scalar.
ValueAndGrad value_and_grad(Module& module, const LossFn& fn, const std::vector<mx::array>& batch);

}  // namespace aspis
