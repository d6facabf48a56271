"""Your own recordings, from suite2p, NWB, CaImAn or plain arrays, as brainsets files."""

from poyo_ssl_plugin.data.importing.arrays import read_arrays
from poyo_ssl_plugin.data.importing.caiman import read_caiman
from poyo_ssl_plugin.data.importing.csv_table import Table, read_table
from poyo_ssl_plugin.data.importing.df_over_f import df_over_f
from poyo_ssl_plugin.data.importing.nwb import read_nwb
from poyo_ssl_plugin.data.importing.recording import recording_from_arrays, recording_from_spikes, save_recording
from poyo_ssl_plugin.data.importing.suite2p import read_suite2p
from poyo_ssl_plugin.data.importing.traces import Spikes, Traces

__all__ = [
    "Spikes",
    "Table",
    "Traces",
    "df_over_f",
    "read_arrays",
    "read_caiman",
    "read_nwb",
    "read_suite2p",
    "read_table",
    "recording_from_arrays",
    "recording_from_spikes",
    "save_recording",
]
