/* The case: a folder of the assembler's include path. */
    .section .note.GNU-stack, "", %progbits
    .section .rodata.case, "a"
    .balign 64
    .global case_model
case_model:
    .incbin "model.sarit"
    .balign 64
    .global case_frames
case_frames:
    .incbin "frames.bin"
    .global case_results
case_results:
    .incbin "results.bin"
