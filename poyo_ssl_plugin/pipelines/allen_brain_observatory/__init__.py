"""The Allen Brain Observatory with what pretraining on predictable neurons needs; see ``docs/pipeline.md``.

``pipeline.py`` is run by ``brainsets prepare``, in an environment that has AllenSDK and torch_brain (or
brainsets) but not this package. So nothing in this folder imports anything of this package outside it.
"""
