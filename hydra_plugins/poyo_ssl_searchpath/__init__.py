"""Lets every Hydra application find the recipe groups of poyo_ssl_plugin. Imports no torch."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from poyo_ssl_plugin.configuration import recipes_dir


class PoyoSSLSearchPath(SearchPathPlugin):
    """Appends the recipes, so that an application's own groups of the same name come first."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("poyo-ssl-plugin", f"file://{recipes_dir()}")
