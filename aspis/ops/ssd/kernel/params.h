#pragma once

#include <cstdint>
#include <limits>

namespace aspis::kernel {

/// B batch, L length, H heads, P head dimension, G groups of B and C (H % G == 0), N state.
struct SsdShape {
  int64_t batch = 0, length = 0, heads = 0, headdim = 0, groups = 1, state = 0;
  int64_t chunk = 64;      ///< tokens that are worked on together, at least 1
  int64_t sequences = 0;   ///< packed sequences (batch 1), or 0: each sample is one
  bool ids = false;        ///< seq_idx is given
  bool recurrent = false;  ///< forward with the state in registers (recurrence.h), not as products over chunks

  int64_t group_heads() const { return heads / groups; }
  /// Independent sequences, each with its own initial and final state.
  int64_t rows() const { return sequences > 0 ? sequences : batch; }
  int64_t state_size() const { return state * headdim; }
  /// Chunks of all rows at most: a row ends with a chunk of its own.
  int64_t slots() const {
    return sequences > 0 ? length / chunk + sequences : batch * ((length + chunk - 1) / chunk);
  }
  int64_t tokens() const { return batch * length; }
};

/// {B, L, heads or groups, last} with a contiguous last axis; strides count elements.
template <typename T>
struct SsdRows {
  T* data = nullptr;
  int64_t batch = 0, token = 0, head = 0;

  explicit operator bool() const { return data != nullptr; }
  T* row(int64_t b, int64_t t, int64_t h) const { return data + b * batch + t * token + h * head; }
};

/// ssd: formulas in ../README.md. Pointers that may be null are marked.
template <typename T>
struct SsdParams {
  SsdShape shape;
  bool softplus = false;  ///< dt = softplus(dt + bias), then clipped to [dt_min, dt_max]
  T dt_min = 0, dt_max = std::numeric_limits<T>::infinity();
  bool channel_D = false;  ///< D is {H, P} instead of {H}

  SsdRows<const T> x, z;                ///< {B, L, H, P}; z may be null
  SsdRows<const T> B, C;                ///< {B, L, G, N}
  const T* dt = nullptr;                ///< {B, L, H}, dense
  const T* A = nullptr;                 ///< {H}
  const T* D = nullptr;                 ///< null, {H} or {H, P}
  const T* dt_bias = nullptr;           ///< null or {H}
  const T* initial_state = nullptr;     ///< null (zero) or {rows, H, P, N}
  const int32_t* seq_idx = nullptr;     ///< null or {B, L}; not together with sequences
  const int32_t* cu_seqlens = nullptr;  ///< {sequences + 1} if there are any

  T* out = nullptr;          ///< {B, L, H, P}
  T* final_state = nullptr;  ///< {rows, H, P, N}
  T* before_gate = nullptr;  ///< null or {B, L, H, P}: the output without the gate
  T* states = nullptr;       ///< null or {slots, H, N, P}: the states before each chunk
  T* workspace = nullptr;    ///< ssd_workspace() values
};

/// Gradients of all inputs. Of `in`, out and final_state are not used; states
/// and (with z) before_gate hold what the forward pass wrote.
template <typename T>
struct SsdVjpParams {
  SsdParams<T> in;
  const T* dout = nullptr;          ///< {B, L, H, P}
  const T* dfinal_state = nullptr;  ///< null (zero) or {rows, H, P, N}

  T *dx = nullptr, *dz = nullptr;  ///< {B, L, H, P}; dz null exactly if z is
  T *dB = nullptr, *dC = nullptr;  ///< {B, L, G, N}
  T* ddt = nullptr;                ///< {B, L, H}
  T* dA = nullptr;                 ///< {H}
  T* dD = nullptr;                 ///< null exactly if D is, else of its shape
  T* ddt_bias = nullptr;           ///< null or {H}
  T* dinitial_state = nullptr;     ///< null or {rows, H, P, N}
  T* workspace = nullptr;          ///< ssd_vjp_workspace() values
};

/// One token, everything dense: x, z, out {B, H, P}; dt {B, H}; B, C {B, G, N};
/// states {B, H, P, N}. `next_state` may be `state`.
template <typename T>
struct SsdStepParams {
  int64_t batch = 0, heads = 0, headdim = 0, groups = 1, state_size = 0;
  bool softplus = false;
  T dt_min = 0, dt_max = std::numeric_limits<T>::infinity();
  bool channel_D = false;
  const T *x = nullptr, *z = nullptr, *dt = nullptr, *A = nullptr, *B = nullptr, *C = nullptr;
  const T *D = nullptr, *dt_bias = nullptr;
  const T* state = nullptr;
  T *out = nullptr, *next_state = nullptr;
};

}  // namespace aspis::kernel
