// Parts of a model that compute by themselves, each with the tensors that it reads and no others: for work that holds one part at a time.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "model/spec.h"

namespace skiff::train {

std::set<std::string> keys_read_by(const Block& block);
// That no decoder block reads.
std::set<std::string> keys_outside_blocks(const ModelSpec& whole);

// Decoder blocks are numbered from 0; in the part they have their places in `blocks`. A part has an embedding and a head as every model, which cannot run without
// their tensors, and at least one decoder block.
ModelSpec part_of(const ModelSpec& whole, const std::vector<std::int64_t>& blocks, std::set<std::string> keys);
ModelSpec embedding_part(const ModelSpec& whole);
ModelSpec decoder_part(const ModelSpec& whole, const std::vector<std::int64_t>& blocks);
ModelSpec head_part(const ModelSpec& whole);

// All decoder blocks, in groups that share no tensor with each other; ascending by the last block of each.
std::vector<std::vector<std::int64_t>> blocks_by_shared_tensors(const ModelSpec& whole);

}  // namespace skiff::train
