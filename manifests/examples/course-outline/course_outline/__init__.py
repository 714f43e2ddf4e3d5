"""Outline of a course archive (OLX): what is in the course, block by block.

    __main__.py   the task: parameters and archive in, outputs out
    agent.py      stage, progress and failure, told to the agent
    unpack.py     a hostile .tar.gz → a folder that can be trusted to be a folder
    olx.py        a hostile XML file → an element tree of bounded size
    walk.py       course → chapters → sequentials → verticals → components
    write.py      outline.csv and summary.json

Standard library only, Python 3.11 or newer.
"""
