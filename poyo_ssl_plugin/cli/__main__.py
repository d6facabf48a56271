"""``python -m poyo_ssl_plugin.cli``, for torchrun."""

from poyo_ssl_plugin.cli import main

main(prog_name="poyo-ssl")
