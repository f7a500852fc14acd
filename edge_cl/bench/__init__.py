"""Benchmarks that anybody can repeat: protocols as data, accuracy and speed."""
