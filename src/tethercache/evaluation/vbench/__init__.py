"""VBench-Long: its arithmetic, its result files, and its scores where its weights are.

Totals and drift of someone's finished run need neither weights nor the `vbench` package, whose
long part cannot be imported. Constants: Vchitect/VBench at 45e79ec (Apache-2.0).
"""
