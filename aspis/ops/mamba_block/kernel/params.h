#pragma once

#include <cstdint>
#include <vector>

namespace aspis::kernel {

/// What a block does to x and z in one visiting order: depthwise causal
/// convolution with SiLU, projection to dt, B and C, selective scan, gate. All dense.
template <typename T>
struct MambaBranch {
  const T* conv_weight = nullptr;  ///< {inner, taps}
  const T* conv_bias = nullptr;    ///< {inner}
  const T* x_proj = nullptr;       ///< {rank + 2 state, inner}
  const T* dt_proj = nullptr;      ///< {inner, rank}
  const T* dt_bias = nullptr;      ///< {inner}
  const T* A = nullptr;            ///< {inner, state}
  const T* D = nullptr;            ///< {inner}
  bool reverse = false;
  const int32_t* order = nullptr;  ///< {length} or null: step t visits token order[t]
};

template <typename T>
struct MambaBranchGradient {
  T *conv_weight = nullptr, *conv_bias = nullptr, *x_proj = nullptr, *dt_proj = nullptr, *dt_bias = nullptr,
    *A = nullptr, *D = nullptr;
};

/// The Mamba block without norm and residual, with one or several branches that
/// share the projections:
///
///     x, z = in_proj h
///     y    = sum over branches of scan(u, dt_proj dt, A, B, C, D, z, dt_bias)
///            with u = silu(conv(x)) and dt, B, C = x_proj u
///     out  = out_proj y
template <typename T>
struct MambaBlockParams {
  int64_t batch = 0, length = 0, width = 0, inner = 0, state = 0, taps = 1, rank = 1;
  const T* h = nullptr;         ///< {batch, length, width}, dense
  const T* in_proj = nullptr;   ///< {2 inner, width}
  const T* out_proj = nullptr;  ///< {width, inner}
  std::vector<MambaBranch<T>> branches;
  T* out = nullptr;  ///< {batch, length, width}
};

/// Gradients of everything for the cotangent `dout` {batch, length, width}, all
/// dense. `forward.out` is not used.
template <typename T>
struct MambaBlockVjpParams {
  MambaBlockParams<T> forward;
  const T* dout = nullptr;
  T *dh = nullptr, *din_proj = nullptr, *dout_proj = nullptr;
  std::vector<MambaBranchGradient<T>> branches;
};

}  // namespace aspis::kernel
