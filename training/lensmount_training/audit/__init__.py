"""Pictures and labels looked at before anything is trained: what is wrong with them, said in words.

`duplicates` and `domain` are light enough for training to use; `auditing` brings in cleanlab and cleanvision.
"""
