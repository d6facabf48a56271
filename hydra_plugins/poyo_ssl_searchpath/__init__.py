"""Lets every Hydra application find the configuration groups of poyo_ssl_plugin. Imports no torch."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from poyo_ssl_plugin.configuration import plugin_dir


class PoyoSSLSearchPath(SearchPathPlugin):
    """Appends our groups, so that an application's own configurations of the same name come first."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("poyo-ssl-plugin", f"file://{plugin_dir()}")
