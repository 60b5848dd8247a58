// Calls a function with the decoder of a weight.
#pragma once

#include "kernels/cuda/two_of_four.h"

namespace skiff::cuda {

// use(Decoder{}) for the decoder that reads `weight`; false where there is none.
template <class Use>
bool with_decoder(const GpuWeight& weight, Use use) {
    if (weight.two_of_four) {
        switch (weight.form) {
            case CodeForm::bf16: return use(TwoOfFour<PlainDecoder<CodeForm::bf16>>{}), true;
            case CodeForm::linear8: return use(TwoOfFour<ByteDecoder<CodeForm::linear8>>{}), true;
            case CodeForm::linear4: return use(TwoOfFour<LinearDecoder<CodeForm::linear4>>{}), true;
            default: return false;
        }
    }
    switch (weight.form) {
        case CodeForm::f32: return use(PlainDecoder<CodeForm::f32>{}), true;
        case CodeForm::f16: return use(PlainDecoder<CodeForm::f16>{}), true;
        case CodeForm::bf16: return use(PlainDecoder<CodeForm::bf16>{}), true;
        case CodeForm::e4m3: return use(ByteDecoder<CodeForm::e4m3>{}), true;
        case CodeForm::e5m2: return use(ByteDecoder<CodeForm::e5m2>{}), true;
        case CodeForm::linear8: return use(ByteDecoder<CodeForm::linear8>{}), true;
        case CodeForm::linear6: return use(LinearDecoder<CodeForm::linear6>{}), true;
        case CodeForm::linear5: return use(LinearDecoder<CodeForm::linear5>{}), true;
        case CodeForm::linear4: return use(LinearDecoder<CodeForm::linear4>{}), true;
        case CodeForm::linear3: return use(LinearDecoder<CodeForm::linear3>{}), true;
        case CodeForm::linear2: return use(LinearDecoder<CodeForm::linear2>{}), true;
        case CodeForm::linear1: return use(LinearDecoder<CodeForm::linear1>{}), true;
        case CodeForm::table8: return use(Table8Decoder{}), true;
        case CodeForm::table4: return weight.table_exact && !weight.table_per_row ? (use(TableDecoder<CodeForm::table4>{}), true) : (use(WideTableDecoder<CodeForm::table4>{}), true);
        case CodeForm::table3: return weight.table_exact && !weight.table_per_row ? (use(TableDecoder<CodeForm::table3>{}), true) : (use(WideTableDecoder<CodeForm::table3>{}), true);
        case CodeForm::table2: return weight.table_exact && !weight.table_per_row ? (use(TableDecoder<CodeForm::table2>{}), true) : (use(WideTableDecoder<CodeForm::table2>{}), true);
        case CodeForm::table1: return weight.table_exact && !weight.table_per_row ? (use(TableDecoder<CodeForm::table1>{}), true) : (use(WideTableDecoder<CodeForm::table1>{}), true);
    }
    return false;
}

}  // namespace skiff::cuda
