/* The arithmetic of the model that the kernels belong to: one for all of them. */
#ifndef EDGEC_ARITHMETIC_H
#define EDGEC_ARITHMETIC_H

#ifndef EDGEC_ARITHMETIC_FAST
#define EDGEC_ARITHMETIC_FAST 0
#endif

#endif
