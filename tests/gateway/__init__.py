"""Tests of the gateway against a scripted engine, over loopback and a real registry folder."""
