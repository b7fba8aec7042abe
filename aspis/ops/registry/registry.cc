#include "aspis/ops/registry/registry.h"

#include "aspis/base/error.h"
#include "aspis/ops/adamw/adamw_cases.h"
#include "aspis/ops/add_n/add_n_cases.h"
#include "aspis/ops/attention/attention_cases.h"
#include "aspis/ops/causal_conv1d/causal_conv1d_cases.h"
#include "aspis/ops/channel_norm/channel_norm_cases.h"
#include "aspis/ops/conv/conv_cases.h"
#include "aspis/ops/cross_entropy/cross_entropy_cases.h"
#include "aspis/ops/cross_scan/cross_scan_cases.h"
#include "aspis/ops/elementwise/elementwise_cases.h"
#include "aspis/ops/gated_norm/gated_norm_cases.h"
#include "aspis/ops/gelu/gelu_cases.h"
#include "aspis/ops/grad_norm/grad_norm_cases.h"
#include "aspis/ops/layer_norm/layer_norm_cases.h"
#include "aspis/ops/linear/linear_cases.h"
#include "aspis/ops/mamba3/mamba3_cases.h"
#include "aspis/ops/mamba_block/mamba_block_cases.h"
#include "aspis/ops/matmul/matmul_cases.h"
#include "aspis/ops/optimizers/optimizers_cases.h"
#include "aspis/ops/pool/pool_cases.h"
#include "aspis/ops/pscan/pscan_cases.h"
#include "aspis/ops/reduce/reduce_cases.h"
#include "aspis/ops/resample/interpolate_cases.h"
#include "aspis/ops/rms_norm/rms_norm_cases.h"
#include "aspis/ops/selective_scan/selective_scan_cases.h"
#include "aspis/ops/silu/silu_cases.h"
#include "aspis/ops/softmax/softmax_cases.h"
#include "aspis/ops/ssd/ssd_cases.h"

namespace aspis {

const std::vector<harness::OpEntry>& op_registry() {
  static const std::vector<harness::OpEntry> entries = {
      selective_scan_entry(),
      mamba_block_entry(),
      ssd_entry(),
      mamba3_entry(),
      pscan_entry(),
      cross_scan_entry(),
      cross_merge_entry(),
      rmsnorm_gated_entry(),
      layer_norm_gated_entry(),
      causal_conv1d_entry(),
      linear_entry(),
      matmul_entry(),
      attention_entry(),
      window_attention_entry(),
      layer_norm_entry(),
      rms_norm_entry(),
      softmax_entry(),
      log_softmax_entry(),
      silu_entry(),
      gelu_entry(),
      add_n_entry(),
      cross_entropy_entry(),
      adamw_entry(),
      optimizers_entry(),
      grad_norm_entry(),
      conv2d_entry(),
      conv3d_entry(),
      transposed_conv2d_entry(),
      transposed_conv3d_entry(),
      batch_norm_entry(),
      layer_norm_channels_first_entry(),
      interpolate_entry(),
      max_pool_entry(),
      avg_pool_entry(),
      pointwise_entry(),
      broadcast_entry(),
      dropout_entry(),
      reduce_entry(),
      group_norm_entry(),
  };
  return entries;
}

const harness::OpEntry& find_op(std::string_view name) {
  std::vector<std::string> names;
  for (const auto& e : op_registry()) {
    if (e.name == name) return e;
    names.push_back(e.name);
  }
  throw Error(ErrorKind::kUsage, {.where = "ops",
                                  .required = "the name of an operator is needed",
                                  .got = "'" + std::string(name) + "'",
                                  .hint = [&] {
                                    const auto near = nearest_word(name, names);
                                    return near.empty() ? std::string("aspis ops") : near;
                                  }()});
}

}  // namespace aspis
