"""How an edit becomes a score. The public name is ``optuna_arrl.TrainScriptObjective``."""

__all__: list[str] = []
