"""The control plane: rules that people set at run time, and every process keeps.

May touch: the words of a page's rooms (NotYet, Failed), the ports of a broker; contract.
Must never: know a transport, or cost a job anything while no rule is in force.
"""
