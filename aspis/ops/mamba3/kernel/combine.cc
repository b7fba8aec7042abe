// Skip, norm, gate and the sum over ranks in one pass.

#include <algorithm>
#include <type_traits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/ops/linear/kernel/matrix.h"
#include "aspis/ops/mamba3/kernel/cpu.h"
#include "aspis/ops/mamba3/kernel/step.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/mamba3/kernel/combine.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/mamba3/kernel/combine-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(combine_f32);
HWY_EXPORT(combine_f64);
HWY_EXPORT(combine_vjp_f32);
HWY_EXPORT(combine_vjp_f64);

template <typename T>
void combine_head(const CombineParams<T>& p, T* u) {
  if constexpr (std::is_same_v<T, float>) {
    HWY_DYNAMIC_DISPATCH(combine_f32)(p, 0, 0, u);
  } else {
    HWY_DYNAMIC_DISPATCH(combine_f64)(p, 0, 0, u);
  }
}
template void combine_head(const CombineParams<float>&, float*);
template void combine_head(const CombineParams<double>&, double*);

template <typename T>
void mamba3_combine(const CombineParams<T>& p) {
  constexpr int64_t kTokens = 16;
  const Mamba3Shape& s = p.shape;
  parallel_for(div_ceil(s.tokens(), kTokens), [&](int64_t task) {
    std::vector<T> u(static_cast<size_t>(s.headdim));
    for (int64_t t = task * kTokens; t < std::min(s.tokens(), (task + 1) * kTokens); t++) {
      for (int64_t h = 0; h < s.heads; h++) {
        if constexpr (std::is_same_v<T, float>) {
          HWY_DYNAMIC_DISPATCH(combine_f32)(p, t, h, u.data());
        } else {
          HWY_DYNAMIC_DISPATCH(combine_f64)(p, t, h, u.data());
        }
      }
    }
  });
}

template <typename T>
void mamba3_combine_vjp(const CombineVjpParams<T>& q) {
  const Mamba3Shape& s = q.in.shape;
  // Parameters are summed in chunks of tokens, which are added in order.
  const int64_t chunks = std::clamp<int64_t>(s.tokens() / 64, 1, 16), each = div_ceil(s.tokens(), chunks);
  const int64_t mimo = s.heads * s.rank * s.headdim, norm = s.heads * s.headdim;
  struct Part {
    T* CombineVjpParams<T>::*field;
    int64_t size, offset;
  };
  std::vector<Part> parts = {{&CombineVjpParams<T>::dD, s.heads, 0},
                             {&CombineVjpParams<T>::dmimo_x, mimo, 0},
                             {&CombineVjpParams<T>::dmimo_z, mimo, 0},
                             {&CombineVjpParams<T>::dmimo_o, mimo, 0},
                             {&CombineVjpParams<T>::dnorm, norm, 0}};
  int64_t values = 0;
  for (Part& part : parts) {
    part.offset = values;
    if (q.*part.field) values += chunks * part.size;
  }
  std::vector<T> partial(static_cast<size_t>(values), T(0));
  parallel_for(chunks, [&](int64_t chunk) {
    CombineVjpParams<T> sums;
    for (const Part& part : parts) {
      if (q.*part.field) sums.*part.field = partial.data() + part.offset + chunk * part.size;
    }
    std::vector<T> u(static_cast<size_t>(s.headdim));
    for (int64_t t = chunk * each; t < std::min(s.tokens(), (chunk + 1) * each); t++) {
      for (int64_t h = 0; h < s.heads; h++) {
        if constexpr (std::is_same_v<T, float>) {
          HWY_DYNAMIC_DISPATCH(combine_vjp_f32)(q, sums, t, h, u.data());
        } else {
          HWY_DYNAMIC_DISPATCH(combine_vjp_f64)(q, sums, t, h, u.data());
        }
      }
    }
  });
  for (const Part& part : parts) {
    if (q.*part.field) sum_parts(partial.data() + part.offset, chunks, part.size, q.*part.field);
  }
}

template void mamba3_combine(const CombineParams<float>&);
template void mamba3_combine(const CombineParams<double>&);
template void mamba3_combine_vjp(const CombineVjpParams<float>&);
template void mamba3_combine_vjp(const CombineVjpParams<double>&);

}  // namespace aspis::kernel
#endif
