"""The plugin's models and tasks, registered whenever they are asked for.

fairseq (0.12) imports the `models/` and `tasks/` of `--user-dir` only if no part of the package was
imported before: `from fairseq_srupp.ops import ...` in the same process, or a spawned process, leaves
`--arch srupp_lm` unknown, and `SRUppLanguageModel.from_pretrained` would not find its task. A folder that is not there
is told in one line, where this plugin is loaded before it. May go when fairseq imports them in every case.
"""

import os

from fairseq_srupp.compat import family
from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.patch import wrap

PACKAGE_DIR = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # the path for --user-dir


def load_plugin() -> None:
    """Imports models, tasks and optimizers of the plugin, which registers them. May be called again.

    Raises: UserError where there is no suitable fairseq.
    """
    family.require()
    from fairseq.models import import_models
    from fairseq.tasks import import_tasks

    package = os.path.basename(PACKAGE_DIR)
    import_tasks(os.path.join(PACKAGE_DIR, "tasks"), f"{package}.tasks")
    import_models(os.path.join(PACKAGE_DIR, "models"), f"{package}.models")


def apply() -> None:
    from fairseq import hub_utils, utils

    @wrap(hub_utils, "from_pretrained")
    def from_pretrained(original, *args, **kwargs):
        load_plugin()
        return original(*args, **kwargs)

    @wrap(utils, "import_user_module")
    def import_user_module(original, args):
        user_dir = getattr(args, "user_dir", None)
        try:
            original(args)
        except FileNotFoundError as error:
            if error.filename is not None:  # a file that the code in the folder looks for
                raise
            raise UserError(f"no such folder: --user-dir {user_dir}") from error
        if user_dir is not None and os.path.realpath(user_dir) == os.path.realpath(PACKAGE_DIR):
            load_plugin()
