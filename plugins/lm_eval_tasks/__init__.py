"""Any task of lm-evaluation-harness under any intervention: ``--task lm_eval:lambada_openai``."""
