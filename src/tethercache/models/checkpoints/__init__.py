"""Weights as people publish them, to diffusers' `WanTransformer3DModel`.

Every format goes one way. `containers` opens a file by its content, `read` finds the tensors that
are meant, `names` calls them as diffusers does, `describe` reads the model's sizes off them, and
`load` hands them to a model without weights; `convert` writes them as a folder of diffusers, `lora`
adds adapters to them. A new format is an entry in a table: of `containers` for a new kind of file,
of `names` for new names.

Tensors stay memory-mapped until the model is to compute (`alignment`), and nothing is ever
unpickled but tensors. Nothing here needs a backbone, and reading needs no diffusers.
"""
