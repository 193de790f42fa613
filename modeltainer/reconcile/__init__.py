"""The reconciler: makes what runs equal to what is declared, across walltimes and failures.

:mod:`.decide` is pure: from declarations, launches and what is remembered to actions;
:mod:`.learn` and :mod:`.scale` are its pure parts; :mod:`.run` looks, decides and acts;
:mod:`.demand` is the gateway's word on who asks for what.
"""
