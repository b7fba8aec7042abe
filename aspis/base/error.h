#pragma once

#include <exception>
#include <string>
#include <string_view>

namespace aspis {

/// What went wrong, as far as a caller would act differently on it. The value
/// is the exit code of the program.
enum class ErrorKind : int {
  kRuntime = 1,  ///< a fault while working: lost device, NaN, unexpected end
  kUsage = 2,    ///< a wrong argument, flag, shape, dtype or config key
  kData = 3,     ///< input data that cannot be used: damaged, empty, wrong format
  kModel = 4,    ///< a model, checkpoint or weights that do not fit or are damaged
  kDevice = 5,   ///< no engine, no device, not enough memory
  kBusy = 73,    ///< a run folder that another process uses or that cannot be created
  kWrite = 75,   ///< output that could not be written: disk full, read-only, I/O error
};

/// Name of a kind for logs and JSON, e.g. "usage".
std::string_view to_string(ErrorKind kind);

/// The one exception type of Aspis. It carries four facts, each a short phrase
/// without a final full stop, and renders them as one sentence:
///
///     [selective_scan] A must have shape {D, N} = {384, 16}; got {16, 384}. Try: transpose A
///
/// The library throws it and never prints or aborts; the program prints it and
/// returns `exit_code()`.
class Error : public std::exception {
 public:
  struct Parts {
    std::string where = {};     ///< operator, file or flag: "selective_scan", "train.csv:3", "--lr"
    std::string required = {};  ///< what is needed: "lr must be a positive number"
    std::string got = {};       ///< what came instead; may be empty
    std::string hint = {};      ///< what to try; may be empty
  };

  Error(ErrorKind kind, Parts parts);

  const char* what() const noexcept override { return message_.c_str(); }
  ErrorKind kind() const noexcept { return kind_; }
  int exit_code() const noexcept { return static_cast<int>(kind_); }
  const Parts& parts() const noexcept { return parts_; }

 private:
  ErrorKind kind_;
  Parts parts_;
  std::string message_;
};

/// Throws a usage error when `ok` is false. Strings are built only on failure:
/// pass a lambda that returns `Error::Parts`.
template <typename MakeParts>
void require(bool ok, MakeParts&& make_parts, ErrorKind kind = ErrorKind::kUsage) {
  if (!ok) [[unlikely]] throw Error(kind, make_parts());
}

/// The candidate nearest to `word` by edit distance, or "" if none is near
/// enough to be a likely slip. For "did you mean" hints.
template <typename Range>
std::string nearest_word(std::string_view word, const Range& candidates);

/// Damerau-Levenshtein distance (adjacent swaps count one).
int edit_distance(std::string_view a, std::string_view b);

template <typename Range>
std::string nearest_word(std::string_view word, const Range& candidates) {
  std::string best;
  int best_distance = 1 + static_cast<int>(word.size()) / 3;
  for (const auto& c : candidates) {
    const std::string_view candidate(c);
    const int d = edit_distance(word, candidate);
    if (d < best_distance || (d == best_distance && best.empty())) {
      best = std::string(candidate);
      best_distance = d;
    }
  }
  return best;
}

}  // namespace aspis
