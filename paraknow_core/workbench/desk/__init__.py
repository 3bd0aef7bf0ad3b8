"""The desk: answers what pages ask about models, tasks and saved sensitivity, in a process of its own.

Pages never load torch. What needs it (a tokenizer, a weight, a decomposition) is a question, one class each in
`requests`. `ask` returns the answer if it is known and otherwise leaves the question for the desk process, which it
starts (`serve`) and which has it answered by the function of its name in `kinds`. An answer is a folder under a hash of
the question and of the files it names, so it is never worked out twice.
"""

from paraknow_core.workbench.desk.questions import Reply, ask, forget

__all__ = ["Reply", "ask", "forget"]
