#include "aspis/train/options.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "aspis/base/error.h"
#include "aspis/ops/optimizers/optimizers.h"

namespace aspis::train {
namespace {

void require_in(const char* flag, double value, double lo, double hi, bool open_low = false) {
  const bool ok = std::isfinite(value) && value <= hi && (open_low ? value > lo : value >= lo);
  if (ok) return;
  std::string range;
  if (hi == std::numeric_limits<double>::infinity()) {
    range = open_low && lo == 0 ? "a positive number" : fmt::format("a number of at least {:g}", lo);
  } else {
    range = fmt::format("a number {} {:g} and at most {:g}", open_low ? "above" : "of at least", lo, hi);
  }
  throw Error(ErrorKind::kUsage,
              {.where = flag, .required = range + " is needed", .got = fmt::format("{:g}", value)});
}

}  // namespace

void check_options(const TrainOptions& o) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  require_in("--epochs", static_cast<double>(o.epochs), o.steps > 0 ? 0 : 1, kInf);
  require_in("--steps", static_cast<double>(o.steps), 0, kInf);
  require_in("--max-minutes", o.max_minutes, 0, kInf);
  require_in("--patience", static_cast<double>(o.patience), 0, kInf);
  require_in("--batch", static_cast<double>(o.batch), 1, 1 << 20);
  require_in("--lr", o.lr, 0, kInf, true);
  require_in("--min-lr-ratio", o.min_lr_ratio, 0, 1);
  require_in("--warmup", o.warmup, 0, 1);
  require_in("--weight-decay", o.weight_decay, 0, kInf);
  require_in("--beta1", o.beta1, 0, 0.999999999);
  require_in("--beta2", o.beta2, 0, 0.999999999);
  optimizer_kind(o.optimizer);
  require_in("--ema", o.ema, 0, 0.999999999);
  require_in("--clip", o.clip, 0, kInf);
  require_in("--label-smoothing", o.label_smoothing, 0, 0.999999999);
  require_in("--layer-decay", o.layer_decay, 0, 1, true);
  require(o.dtype == "float32" || o.dtype == "bfloat16" || o.dtype == "f32" || o.dtype == "bf16", [&] {
    return Error::Parts{
        .where = "--dtype", .required = "it must be float32 or bfloat16 (f32, bf16)", .got = "'" + o.dtype + "'"};
  });
  require_in("--crop-padding", o.crop_padding, 0, 1024);
  require_in("--erase", o.erase, 0, 1);
  if (o.val_fraction >= 0 || std::isnan(o.val_fraction)) require_in("--val-fraction", o.val_fraction, 0, 0.9);
  require_in("--image-size", o.image_size, 0, 65536);
  require_in("--loader-threads", o.loader_threads, 1, 256);
  require_in("--log-every", static_cast<double>(o.log_every), 1, kInf);
  require_in("--save-minutes", o.save_minutes, 0, kInf, true);
  require_in("--keep", o.keep, 1, 1000);
  require_in("--limit-batches", static_cast<double>(o.limit_batches), 0, kInf);
  require_in("--limit-eval-batches", static_cast<double>(o.limit_eval_batches), 0, kInf);
}

}  // namespace aspis::train
