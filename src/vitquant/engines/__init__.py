"""How models are run: compilers, exporters and kernels that several recipes share."""
