/* The engine as a model, as early as it may be: a job runs when it is started. */
#include "edgec_neureka_model.h"
#include "edgec_port.h"

static void run(const edgec_engine_job *job) {
    edgec_neureka_window windows[EDGEC_ENGINE_WINDOWS];
    for (uint32_t i = 0U; i < job->window_count; i++) {
        windows[i].address = job->windows[i].address;
        windows[i].size = job->windows[i].size;
        windows[i].bytes = job->windows[i].bytes;
        windows[i].writable = job->windows[i].writable;
    }
    if (edgec_neureka_model(job->registers, job->weight_base + job->words, windows,
                            job->window_count) != EDGEC_NEUREKA_OK) {
        for (;;) { /* no plan that edgec accepts has such a job */
        }
    }
}

void edgec_engine_prepare(edgec_engine_job *job) {
    (void)job;
}

void edgec_engine_start(edgec_engine_job *job) {
    run(job);
}

void edgec_engine_wait(edgec_engine_job *job) {
    (void)job;
}
