// softplus and silu of one channel block for several tokens side by side, per
// instruction set. Included once per target by cpu.cc, after common-inl.h.
//
// One such function is a chain of about 100 cycles, and tokens one after the
// other do not overlap enough to hide it; four at a time do.

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {

// In general one token at a time with the functions of the library.
template <class D, class V = hn::Vec<D>>
struct TokenMath {
  static constexpr int kTokens = 1;  // side by side; divides kSegment

  static HWY_INLINE void softplus(V* x) { x[0] = simd::Softplus(D(), x[0]); }
  static HWY_INLINE void softplus_and_grad(V* x, V* grad) {
    grad[0] = simd::SoftplusGrad(D(), x[0]);
    x[0] = simd::Softplus(D(), x[0]);
  }
  static HWY_INLINE void silu(V* x) { x[0] = simd::Silu(D(), x[0]); }
  static HWY_INLINE void silu_and_grad(V* x, V* grad) {
    V value = x[0];
    simd::SiluAndGrad(D(), x[0], value, grad[0]);
    x[0] = value;
  }
};

#if HWY_TARGET == HWY_AVX3
// AVX-512 float: small tables in registers in place of long polynomials, no
// division in softplus. Errors are a few units in the last place, special values
// those of the library.
template <>
struct TokenMath<hn::ScalableTag<float>> {
  using V = hn::Vec<hn::ScalableTag<float>>;
  static constexpr int kTokens = 4;
#define ASPIS_EACH for (int i = 0; i < kTokens; i++)

  static HWY_INLINE void softplus(V* x) {
    __m512 e[kTokens], u[kTokens];
    softplus(x, e, u);
  }
  static HWY_INLINE void softplus_and_grad(V* x, V* grad) {
    __m512 e[kTokens], u[kTokens];
    __mmask16 large[kTokens];
    HWY_UNROLL(4) ASPIS_EACH large[i] = above(x[i]);
    softplus(x, e, u);
    HWY_UNROLL(4) ASPIS_EACH {
      grad[i].raw = _mm512_mask_blend_ps(large[i], _mm512_div_ps(e[i], u[i]), _mm512_set1_ps(1.0f));
    }
  }
  // z / (1 + e^-z)
  static HWY_INLINE void silu(V* z) {
    __m512 u[kTokens];
    HWY_UNROLL(4) ASPIS_EACH u[i] = negated(z[i]);
    exp(u);
    HWY_UNROLL(4) ASPIS_EACH u[i] = _mm512_add_ps(u[i], _mm512_set1_ps(1.0f));
    HWY_UNROLL(4) ASPIS_EACH z[i].raw = _mm512_div_ps(z[i].raw, u[i]);
  }
  // With s = 1 / (1 + e): value z s, slope s (1 + z e s). e s is NaN for e = inf, where it is 1 in the limit;
  // min returns its second operand then.
  static HWY_INLINE void silu_and_grad(V* z, V* grad) {
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512 e[kTokens], s[kTokens];
    HWY_UNROLL(4) ASPIS_EACH e[i] = negated(z[i]);
    exp(e);
    HWY_UNROLL(4) ASPIS_EACH s[i] = _mm512_div_ps(one, _mm512_add_ps(e[i], one));
    HWY_UNROLL(4) ASPIS_EACH e[i] = _mm512_min_ps(_mm512_mul_ps(e[i], s[i]), one);
    HWY_UNROLL(4) ASPIS_EACH grad[i].raw = _mm512_mul_ps(s[i], _mm512_fmadd_ps(z[i].raw, e[i], one));
    HWY_UNROLL(4) ASPIS_EACH z[i].raw = _mm512_mul_ps(z[i].raw, s[i]);
  }

 private:
  static HWY_INLINE __mmask16 above(V x) { return _mm512_cmp_ps_mask(x.raw, _mm512_set1_ps(20.0f), _CMP_GT_OQ); }
  // -z within the range of exp; a NaN stays.
  static HWY_INLINE __m512 negated(V z) {
    const __m512 low = _mm512_max_ps(_mm512_set1_ps(-104.0f), _mm512_sub_ps(_mm512_setzero_ps(), z.raw));
    return _mm512_min_ps(_mm512_set1_ps(100.0f), low);
  }
  static HWY_INLINE void stage(__m512* v) { HWY_UNROLL(4) ASPIS_EACH asm volatile("" : "+v"(v[i])); }

  // e^x for -104 <= x <= 100: x = n ln 2 + r with n a multiple of 1/16.
  static HWY_INLINE void exp(__m512* x) {
    const __m512 magic = _mm512_set1_ps(786432.0f), roots = DecayExp<hn::ScalableTag<float>>().roots;
    __m512 n[kTokens], root[kTokens], q[kTokens];
    HWY_UNROLL(4) ASPIS_EACH n[i] = _mm512_fmadd_ps(x[i], _mm512_set1_ps(1.44269504088896341f), magic);
    stage(n);
    HWY_UNROLL(4) ASPIS_EACH root[i] = _mm512_permutexvar_ps(_mm512_castps_si512(n[i]), roots);
    stage(root);
    HWY_UNROLL(4) ASPIS_EACH n[i] = _mm512_sub_ps(n[i], magic);
    stage(n);
    HWY_UNROLL(4) ASPIS_EACH x[i] = _mm512_fnmadd_ps(n[i], _mm512_set1_ps(0.693145751953125f), x[i]);
    stage(x);
    HWY_UNROLL(4) ASPIS_EACH x[i] = _mm512_fnmadd_ps(n[i], _mm512_set1_ps(1.42860682030941723e-6f), x[i]);
    stage(x);
    HWY_UNROLL(4) ASPIS_EACH q[i] = _mm512_fmadd_ps(x[i], _mm512_set1_ps(1.0f / 6), _mm512_set1_ps(0.5f));
    stage(q);
    HWY_UNROLL(4) ASPIS_EACH q[i] = _mm512_fmadd_ps(x[i], q[i], _mm512_set1_ps(1.0f));
    stage(q);
    HWY_UNROLL(4) ASPIS_EACH x[i] = _mm512_mul_ps(root[i], x[i]);
    stage(x);
    HWY_UNROLL(4) ASPIS_EACH x[i] = _mm512_fmadd_ps(x[i], q[i], root[i]);
    stage(x);
    HWY_UNROLL(4) ASPIS_EACH x[i] = _mm512_scalef_ps(x[i], n[i]);
  }

  // e = e^x, u = 1 + e = 2^k c (1 + r) with c one of 1, 17/16, ..., 31/16 and 0 <= r < 1/16:
  // softplus = k ln 2 + log c + r + r^2 g(r), which is r + r^2 g(r) alone for small e.
  static HWY_INLINE void softplus(V* x, __m512* e, __m512* u) {
    // Bits of 1 / c, plus those of 1: minus the exponent bits of u that gives 2^-k / c.
    const __m512i inverse = _mm512_setr_epi32(
        0x7f000000, 0x7ef0f0f1, 0x7ee38e39, 0x7ed79436, 0x7ecccccd, 0x7ec30c31, 0x7eba2e8c, 0x7eb21643, 0x7eaaaaab,
        0x7ea3d70a, 0x7e9d89d9, 0x7e97b426, 0x7e924925, 0x7e8d3dcb, 0x7e888889, 0x7e842108);
    const __m512 logs = _mm512_setr_ps(0.0f, 0.0606246181f, 0.117783025f, 0.171850249f, 0.223143533f, 0.271933705f,
                                       0.318453699f, 0.362905473f, 0.405465066f, 0.446287125f, 0.485507786f,
                                       0.523248136f, 0.559615731f, 0.594707131f, 0.628608584f, 0.66139853f);
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512i exponent = _mm512_set1_epi32(0x7f800000);
    __m512 base[kTokens], r[kTokens], q[kTokens];
    HWY_UNROLL(4) ASPIS_EACH {
      e[i] = _mm512_min_ps(_mm512_set1_ps(20.0f), _mm512_max_ps(_mm512_set1_ps(-104.0f), x[i].raw));
    }
    exp(e);
    HWY_UNROLL(4) ASPIS_EACH u[i] = _mm512_add_ps(e[i], one);
    stage(u);
    HWY_UNROLL(4) ASPIS_EACH {
      const __m512i bits = _mm512_castps_si512(u[i]), index = _mm512_srli_epi32(bits, 19);
      base[i] = _mm512_fmadd_ps(_mm512_getexp_ps(u[i]), _mm512_set1_ps(0.693147181f),
                                _mm512_permutexvar_ps(index, logs));
      r[i] = _mm512_castsi512_ps(
          _mm512_sub_epi32(_mm512_permutexvar_epi32(index, inverse), _mm512_and_si512(bits, exponent)));
    }
    stage(r);
    HWY_UNROLL(4) ASPIS_EACH r[i] = _mm512_fmadd_ps(e[i], r[i], _mm512_sub_ps(r[i], one));
    stage(r);
    // Minimax-like fit of (log(1 + r) / r - 1) / r on [0, 1/16], 1e-9 in log(1 + r) / r.
    HWY_UNROLL(4)
    ASPIS_EACH q[i] = _mm512_fmadd_ps(r[i], _mm512_set1_ps(0.180607775f), _mm512_set1_ps(-0.249259393f));
    stage(q);
    HWY_UNROLL(4) ASPIS_EACH q[i] = _mm512_fmadd_ps(r[i], q[i], _mm512_set1_ps(0.333324159f));
    stage(q);
    HWY_UNROLL(4) ASPIS_EACH q[i] = _mm512_fmadd_ps(r[i], q[i], _mm512_set1_ps(-0.499999982f));
    stage(q);
    HWY_UNROLL(4) ASPIS_EACH q[i] = _mm512_fmadd_ps(r[i], q[i], one);
    stage(q);
    HWY_UNROLL(4) ASPIS_EACH {
      x[i].raw = _mm512_mask_blend_ps(above(x[i]), _mm512_fmadd_ps(r[i], q[i], base[i]), x[i].raw);
    }
  }
#undef ASPIS_EACH
};
#endif

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
