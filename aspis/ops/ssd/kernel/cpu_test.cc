#include "aspis/ops/ssd/kernel/cpu.h"

#include <doctest/doctest.h>

#include <sys/mman.h>

#include <cstring>

#include "aspis/base/parallel.h"
#include "aspis/ops/ssd/kernel/test_problem.h"
#include "aspis/simd/isa.h"

using namespace aspis;
using namespace aspis::kernel;
using namespace aspis::kernel::ssd_test;

namespace {

struct Case {
  std::string name;
  SsdShape shape;  // batch, length, heads, headdim, groups, state, chunk
  Options options;
};

std::vector<Case> cases() {
  std::vector<Case> list = {
      {"one", {1, 1, 1, 1, 1, 1, 4}, {}},
      {"odd sizes", {2, 13, 3, 5, 1, 7, 4}, {}},
      {"groups", {2, 19, 6, 4, 2, 3, 8}, {}},
      {"a group for each head", {1, 9, 3, 2, 3, 5, 3}, {}},
      {"many heads", {1, 20, 19, 3, 1, 4, 16}, {}},
      {"bare",
       {2, 11, 2, 3, 1, 4, 4},
       {.D = false, .z = false, .bias = false, .softplus = false, .initial = false, .final = false}},
      {"D by channel", {1, 10, 2, 6, 1, 4, 5}, {.channel_D = true, .z = false}},
      {"clipped steps", {1, 23, 3, 4, 1, 4, 8}, {.dt_min = 0.2, .dt_max = 0.5}},
      {"clipped without softplus", {1, 23, 3, 4, 1, 4, 8}, {.softplus = false, .dt_min = 0.1, .dt_max = 0.3}},
      {"rows with gaps", {2, 21, 4, 5, 2, 6, 8}, {.gap = 3}},
      {"vectors", {1, 70, 2, 64, 1, 32, 64}, {}},
      {"many chunks", {1, 400, 12, 8, 1, 16, 16}, {}},
      {"wide", {1, 66, 2, 40, 2, 130, 32}, {}},
      {"chunk longer than the sequence", {2, 5, 2, 3, 1, 4, 64}, {}},
      {"growth", {1, 40, 2, 4, 1, 4, 16}, {.decay = -0.3}},
      {"fast decay", {1, 60, 2, 4, 1, 4, 16}, {.decay = 100}},
      {"packed", {1, 31, 3, 4, 1, 5, 4}, {.cu = {0, 1, 3, 3, 10, 14, 31}}},
      {"no tokens", {1, 0, 2, 3, 1, 4, 4}, {.cu = {0, 0, 0}}},
      {"packed, chunk 16", {1, 31, 2, 4, 2, 5, 16}, {.cu = {0, 15, 15, 31}}},
  };
  std::vector<int32_t> ids = {0, 0, 0, 3, 3, -1, -1, 4, 4, 4, 4, 4, 4, 7, -1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1};
  list.push_back({"ids", {2, 13, 3, 4, 1, 5, 4}, {.seq_idx = ids}});
  list.push_back({"ids, one chunk", {2, 13, 2, 4, 2, 5, 16}, {.seq_idx = ids}});
  list.push_back({"padding at the end", {1, 9, 2, 3, 1, 4, 4}, {.seq_idx = {0, 0, 0, 0, 0, -1, -1, -1, -1}}});
  return list;
}

template <typename T, typename W>
void compare(const Results<T>& got, const Results<W>& want, double forward, double gradient) {
  const auto a = Results<T>::fields();
  const auto b = Results<W>::fields();
  for (size_t i = 0; i < a.size(); i++) {
    const std::string field = a[i].first;
    CAPTURE(field);
    CHECK(error(got.*a[i].second, want.*b[i].second) < (i < 2 ? forward : gradient));
  }
}

}  // namespace

TEST_CASE("the adjoint of the reference agrees with finite differences of every input") {
  for (const Case& c : cases()) {
    if (c.shape.tokens() * c.shape.heads * c.shape.headdim * c.shape.state > 3000 || c.options.dt_min > 0)
      continue;
    CAPTURE(c.name);
    Problem<double> problem(c.shape, c.options);
    const auto want = problem.reference();
    const auto loss = [&] {
      Results<double> r;
      const auto p = problem.params(r);
      ssd_reference(p);
      double sum = 0;
      for (size_t i = 0; i < r.out.size(); i++) sum += r.out[i] * problem.dout[i];
      for (size_t i = 0; i < r.final_state.size() && c.options.final; i++)
        sum += r.final_state[i] * problem.dfinal[i];
      return sum;
    };
    const auto check = [&](const char* name, std::vector<double>& input, const std::vector<double>& gradient) {
      if (gradient.empty() || c.options.gap > 0) return;
      CAPTURE(name);
      std::vector<double> numeric(gradient.size());
      for (size_t i = 0; i < gradient.size(); i++) {
        const double kept = input[i], h = 1e-6;
        input[i] = kept + h;
        const double up = loss();
        input[i] = kept - h;
        numeric[i] = (up - loss()) / (2 * h);
        input[i] = kept;
      }
      CHECK(error(numeric, gradient) < 1e-7);
    };
    check("x", problem.x, want.dx);
    check("z", problem.z, want.dz);
    check("B", problem.B, want.dB);
    check("C", problem.C, want.dC);
    check("dt", problem.dt, want.ddt);
    check("A", problem.A, want.dA);
    check("D", problem.D, want.dD);
    check("bias", problem.bias, want.ddt_bias);
    check("initial", problem.initial, want.dinitial);
  }
}

TEST_CASE("ssd agrees with the recurrence and its adjoint on every instruction set") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const Case& c : cases()) {
      CAPTURE(isa);
      CAPTURE(c.name);
      const auto want = Problem<double>(c.shape, c.options).reference();
      Problem<double> wide(c.shape, c.options);
      compare(wide.run(), want, 1e-13, 1e-12);
      CHECK(wide.forward_work.back() == 77);
      CHECK(wide.backward_work.back() == 77);
      compare(Problem<float>(c.shape, c.options).run(), want, 2e-6, 1e-5);
      SsdShape held = c.shape;
      held.recurrent = true;
      Problem<double> registers(held, c.options);
      compare(registers.run(), want, 1e-13, 1e-12);
      CHECK(registers.forward_work.back() == 77);
      compare(Problem<float>(held, c.options).run(), want, 2e-6, 1e-5);
    }
  }
  force_isa("");
}

TEST_CASE("all chunk sizes give the same, and both forms") {
  for (const int64_t chunk : {1, 2, 7, 16, 48, 64, 100, 256}) {
    for (const bool recurrent : {false, true}) {
      CAPTURE(chunk);
      CAPTURE(recurrent);
      SsdShape shape{1, 137, 2, 9, 1, 10, chunk};
      shape.recurrent = recurrent;
      compare(Problem<double>(shape, {}).run(), Problem<double>(shape, {}).reference(), 1e-13, 1e-12);
    }
  }
}

TEST_CASE("lengths around the spans, blocks and stages of the recurrence") {
  for (const int64_t length : {1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65, 255, 256, 257, 519}) {
    for (const int64_t batch : {1, 3}) {
      CAPTURE(length);
      CAPTURE(batch);
      SsdShape shape{batch, length, 2, 18, 1, 17, 64};
      shape.recurrent = true;
      compare(Problem<double>(shape, {}).run(), Problem<double>(shape, {}).reference(), 1e-13, 1e-12);
    }
  }
}

TEST_CASE("a sample does not depend on its batch") {
  for (const bool recurrent : {false, true}) {
    SsdShape shape{70, 41, 3, 5, 1, 6, 16}, alone = shape;
    shape.recurrent = alone.recurrent = recurrent;
    alone.batch = 1;
    Problem<float> batch(shape, {}), one(alone, {});
    one.A = batch.A, one.D = batch.D, one.bias = batch.bias;
    const int64_t sample = 69;
    const auto take = [&](const std::vector<float>& from, std::vector<float>& to) {
      std::copy_n(from.begin() + sample * static_cast<int64_t>(to.size()), to.size(), to.begin());
    };
    take(batch.x, one.x), take(batch.z, one.z), take(batch.B, one.B), take(batch.C, one.C);
    take(batch.dt, one.dt), take(batch.initial, one.initial), take(batch.dout, one.dout);
    take(batch.dfinal, one.dfinal);
    const auto many = batch.run(), single = one.run();
    for (const auto field : {&Results<float>::out, &Results<float>::final_state, &Results<float>::dx,
                             &Results<float>::dB, &Results<float>::dC, &Results<float>::ddt}) {
      std::vector<float> part((single.*field).size());
      take(many.*field, part);
      CHECK(std::memcmp(part.data(), (single.*field).data(), part.size() * sizeof(float)) == 0);
    }
  }
}

TEST_CASE("ssd gives the same bits for 1, 2, 3 and 7 threads") {
  std::vector<Case> list = cases();
  const size_t forms = list.size();
  for (size_t i = 0; i < forms; i++) {
    list.push_back(list[i]);
    list.back().shape.recurrent = true;
  }
  for (const Case& c : list) {
    CAPTURE(c.name);
    CAPTURE(c.shape.recurrent);
    set_num_threads(1);
    const auto one = Problem<float>(c.shape, c.options).run();
    for (const int threads : {2, 3, 7}) {
      set_num_threads(threads);
      const auto many = Problem<float>(c.shape, c.options).run();
      for (const auto& [name, field] : Results<float>::fields()) {
        CAPTURE(name);
        const auto &a = one.*field, &b = many.*field;
        REQUIRE(a.size() == b.size());
        CHECK((a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0));
      }
    }
  }
  set_num_threads(0);
}

TEST_CASE("a NaN or infinity reaches only what comes after it in its sequence") {
  // Borders inside spans and chunks, padding inside and at a border.
  const std::vector<int32_t> ids = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, -1, -1, 2, 2, 5, 5};
  enum Where { kX, kB, kC, kDt };
  for (const bool recurrent : {false, true}) {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      for (const Where where : {kX, kB, kC, kDt}) {
        for (int64_t token = 0; token < 20; token++) {
          SsdShape shape{1, 20, 2, 3, 2, 4, 16};
          shape.recurrent = recurrent;
          Options o;
          o.z = o.D = false;
          o.seq_idx = ids;
          Problem<float> problem(shape, o);
          // Head 0 and its group.
          if (where == kX) problem.x[static_cast<size_t>(token * 6 + 1)] = bad;
          if (where == kB) problem.B[static_cast<size_t>(token * 8 + 2)] = bad;
          if (where == kC) problem.C[static_cast<size_t>(token * 8 + 2)] = bad;
          if (where == kDt) problem.dt[static_cast<size_t>(token * 2)] = std::numeric_limits<float>::quiet_NaN();
          const auto got = problem.run(false);
          CAPTURE(recurrent);
          CAPTURE(where);
          CAPTURE(token);
          const auto same = [&](int64_t t) { return ids[size_t(t)] == ids[size_t(token)] && ids[size_t(t)] >= 0; };
          for (int64_t t = 0; t < 20; t++) {
            CAPTURE(t);
            const bool hit = !std::isfinite(got.out[static_cast<size_t>(t * 6 + 1)]);
            CHECK(hit == (same(t) && (where == kC ? t == token : t >= token)));
            CHECK(std::isfinite(got.out[static_cast<size_t>(t * 6 + 4)]));  // head 1
          }
          const int64_t place = 1 * 4 + 2;  // of channel 1, state 2
          CHECK(!std::isfinite(got.final_state[place]) == (where != kC && same(19)));
        }
      }
    }
  }
}

TEST_CASE("#880, #884: offsets beyond 2^31 elements") {
  // Seen to fail with the place of a token in 32 bits.
  // Tokens 2^31 values apart in address space that is never touched in between: 32 bits with a sign end at the
  // second token, and without one the third has the place of the first.
  constexpr int64_t kStride = int64_t{1} << 31, kTokens = 4, kWidth = 6;
  const size_t bytes = (kStride * (kTokens - 1) + kWidth) * sizeof(float);
  for (const bool recurrent : {false, true}) {
    SsdShape shape{1, kTokens, 2, 3, 2, 3, 2};
    shape.recurrent = recurrent;
    Problem<float> problem(shape, {});
    const auto want = problem.run();
    const auto spread = [&](const std::vector<float>& from) {
      void* const memory =
          mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      REQUIRE(memory != MAP_FAILED);
      for (int64_t t = 0; t < kTokens; t++)
        std::copy_n(from.begin() + t * kWidth, kWidth, static_cast<float*>(memory) + t * kStride);
      return static_cast<float*>(memory);
    };
    Results<float> got;
    auto p = problem.params(got);
    std::vector<float*> memory;
    for (auto [rows, from] :
         {std::pair(&p.x, &problem.x), {&p.z, &problem.z}, {&p.B, &problem.B}, {&p.C, &problem.C}}) {
      memory.push_back(spread(*from));
      *rows = {memory.back(), kStride * kTokens, kStride, 3};
    }
    p.states = problem.states.data(), p.workspace = problem.forward_work.data();
    ssd(p);
    auto q = problem.vjp_params(p, got);
    q.workspace = problem.backward_work.data();
    ssd_vjp(q);
    compare(got, want, 1e-7, 1e-7);
    for (float* m : memory) munmap(m, bytes);
  }
}

TEST_CASE("steps one by one are the whole, on every instruction set") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const bool channel : {false, true}) {
      const SsdShape shape{3, 9, 4, 5, 2, 7, 4};
      Options o;
      o.channel_D = channel;
      o.dt_max = 0.6;
      Problem<double> problem(shape, o);
      const auto want = problem.run(false);
      std::vector<double> state = problem.initial, out(3 * 4 * 5);
      for (int64_t t = 0; t < 9; t++) {
        const auto token = [&](const std::vector<double>& v, int64_t width) {
          std::vector<double> part;
          for (int64_t b = 0; b < 3; b++)
            part.insert(part.end(), v.begin() + (b * 9 + t) * width, v.begin() + (b * 9 + t + 1) * width);
          return part;
        };
        const auto x = token(problem.x, 20), z = token(problem.z, 20), B = token(problem.B, 14),
                   C = token(problem.C, 14), dt = token(problem.dt, 4);
        SsdStepParams<double> p{3, 4, 5, 2, 7, true, 0, 0.6, channel};
        p.x = x.data(), p.z = z.data(), p.dt = dt.data(), p.A = problem.A.data(), p.B = B.data(), p.C = C.data();
        p.D = problem.D.data(), p.dt_bias = problem.bias.data(), p.state = state.data();
        p.out = out.data(), p.next_state = state.data();
        ssd_step(p);
        CHECK(error(out, token(want.out, 20)) < 1e-13);
      }
      CHECK(error(state, want.final_state) < 1e-13);
    }
  }
  force_isa("");
}
