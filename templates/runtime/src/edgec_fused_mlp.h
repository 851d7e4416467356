/* Gate and up to the staged input of the down projection. */
#ifndef EDGEC_FUSED_MLP_H
#define EDGEC_FUSED_MLP_H

#include "edgec_fused_stage.h"
#include "edgec_silu.h"

/* gate = silu(gate) of some rows; returns their amplitude. */
EDGEC_FOLDED uint32_t edgec_fused_silu(int32_t *gate, uint32_t n, const uint16_t *sigmoid) {
    uint32_t most = 0U;
    for (const int32_t *const end = gate + n; gate != end; gate++) {
        const int32_t l = edgec_silu(*gate, sigmoid);
        *gate = l;
        most = edgec_maxu32(most, (uint32_t)edgec_abs32(l));
    }
    return most << 1;
}

/* l = silu(gate) and u of the worker's share are there, their amplitudes in the exchange and a
 * barrier has passed. Stages their product; the barrier in front of the job is the caller's. */
EDGEC_FOLDED edgec_scale edgec_fused_product(const edgec_worker *worker, int32_t *l,
                                             const int32_t *u, const edgec_stage_part *part,
                                             uint32_t halves) {
    const edgec_slice share = part->share;
    const int32_t l_shift =
        edgec_amplitude_shift(edgec_team_amplitude(worker, EDGEC_AMPLITUDE_GATE), 15);
    const int32_t u_shift =
        edgec_amplitude_shift(edgec_team_amplitude(worker, EDGEC_AMPLITUDE_UP), 15);
    const edgec_shifter l_by = edgec_shifter_of(l_shift);
    const edgec_shifter u_by = edgec_shifter_of(u_shift);
    edgec_range range = {0, 0};
    for (uint32_t i = share.first; i < share.last; i++) {
        const int32_t h = edgec_shifted(l[i], l_by) * edgec_shifted(u[i], u_by);
        l[i] = h;
        edgec_range_add(&range, h);
    }
    edgec_put_amplitude(worker, EDGEC_AMPLITUDE_VECTOR, edgec_amplitude_of(range));
    edgec_barrier(worker);
    const uint32_t amplitude = edgec_team_amplitude(worker, EDGEC_AMPLITUDE_VECTOR);
    const edgec_vector_quantizer quantizer = edgec_vector_quantizer_of(amplitude, halves);
    edgec_fused_stage(part, halves, &quantizer, l);
    const edgec_scale scale = {quantizer.amax,
                               quantizer.shift - (halves == 2U ? 14 : 0) + l_shift + u_shift};
    return scale;
}

#endif
