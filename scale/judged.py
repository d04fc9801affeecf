"""The tables of one or two jobs in DuckDB, and the questions that a report asks them.

Only what has DuckDB imports this module.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from common.errors import UserError
from scale.output_folder import JOB, TABLES, OutputFolder

# columns of `strips` that are no statistic of a channel
OWN = ("path", "verdict", "reason", "score", "threshold", "detections", "inspected_contrast")
OWN += ("seconds", "model", "folder")
FOLDER = r"case when path like '%/%' then regexp_replace(path, '/[^/]*$', '') else '.' end"


class Place(NamedTuple):
    """A detection: its strip, where it is in pixels, and its margin."""

    path: str
    y: int
    x: int
    margin: float


class Judged:
    """What a job has found. The tables are `strips`, `detections` and `errors` with a suffix.

    Raises `UserError` for a folder of no job, or of one that has finished no shard.
    """

    def __init__(self, database: duckdb.DuckDBPyConnection, output: OutputFolder, suffix: str = ""):
        self.database, self.output, self.suffix = database, output, suffix
        facts = output.read_notes(JOB)
        shards = sorted(output.done())
        if not isinstance(facts, dict) or not shards:
            raise UserError(f"{output}: found no shard of a job, expected an output of scoring")
        self.facts: dict[str, Any] = facts
        for name in TABLES:
            paths = [str(output.fetch(f"{name}/{shard}.parquet") or "") for shard in shards]
            if missing := [shard for shard, path in zip(shards, paths) if not path]:
                raise UserError(f"{output}: found no {name}/{missing[0]}.parquet, expected it")
            files = ", ".join(f"'{quoted(path)}'" for path in paths)
            database.execute(
                f"create table {name}{suffix} as select *, {FOLDER} as folder "
                f"from read_parquet([{files}], union_by_name = true)"
            )

    def ask(self, question: str, *values: object) -> list[tuple]:
        """The rows of an SQL question, in which {s} stands for the suffix of the tables."""
        return self.database.execute(question.replace("{s}", self.suffix), values).fetchall()

    @property
    def model(self) -> str:
        """The beginning of the model's SHA-256."""
        return str(self.facts.get("model"))[:12]

    def by_folder(self) -> list[tuple]:
        """Of each folder: strips, NG ones, their share in percent, detections a strip, errors."""
        return self.ask("""
            select folder, count(score), count_if(verdict = 'NG'),
                round(100.0 * count_if(verdict = 'NG') / nullif(count(score), 0), 2),
                round(avg(detections), 3), count_if(score is null)
            from (
                select folder, verdict, score, detections from strips{s}
                union all select folder, null, null, null from errors{s}
            ) group by folder order by folder
        """)

    def drift(self) -> list[tuple]:
        """Of each statistic: how many strips have it, its median, the folders of the lowest and the
        highest one, their medians, and how far these are apart in half the range of the middle 68 %
        within a folder.

        The statistic that changes most comes first. Statistics without any spread are left out.
        Those of the registration are of a sample, and of a folder with one such strip there is no
        spread.
        """
        described = self.ask("describe strips{s}")
        names = [row[0] for row in described if row[0] not in OWN]
        rows = []
        for name in names:
            rows += self.ask(f"""
                with medians as (
                    select folder, median("{name}") as middle,
                        case when count("{name}") > 1 then (quantile_cont("{name}", 0.84)
                        - quantile_cont("{name}", 0.16)) / 2 end as spread
                    from strips{{s}} group by folder
                )
                select '{name}', (select count("{name}") from strips{{s}}),
                    (select median("{name}") from strips{{s}}),
                    arg_min(folder, middle), min(middle), arg_max(folder, middle), max(middle),
                    (max(middle) - min(middle)) / nullif(median(spread), 0) as apart
                from medians having apart is not null
            """)
        return sorted(rows, key=lambda row: (-row[-1], row[0]))

    def strongest(self, count: int) -> list[Place]:
        """The strongest detection of each strip, of the strips with the strongest ones."""
        rows = self.ask(
            "select path, y, x, margin from detections{s} where rank = 1 "
            "order by margin desc, path limit ?",
            count,
        )
        return [Place(*row) for row in rows]

    def looser(self, more: float) -> tuple[float, float] | None:
        """The score above which a share `more` of all strips is NG in addition, and that share.

        None where all strips are NG then.
        """
        ((share,),) = self.ask("select avg((verdict = 'NG')::int) from strips{s}")
        if share is None or share + more >= 1:
            return None
        ((score,),) = self.ask("select quantile_disc(score, ?) from strips{s}", 1 - share - more)
        return score, share + more


class Comparison:
    """A job against another one on the same strips; `radius` is in pixels."""

    def __init__(self, new: Judged, old: Judged, radius: float):
        self.new, self.old, self.radius = new, old, radius
        ((common,),) = new.ask("select count(*) from strips{s} join strips_old using (path)")
        if not common:
            raise UserError(
                f"{new.output}: found no strip that {old.output} has, expected the same archive"
            )
        self.strips = common

    def unmatched(self, mine: Judged, other: Judged) -> str:
        """The SQL of the detections of one job that the other one has none beside."""
        return f"""
            select d.* from detections{mine.suffix} d join strips{other.suffix} using (path)
            where not exists (
                select 1 from detections{other.suffix} o where o.path = d.path
                and (o.y - d.y) ** 2 + (o.x - d.x) ** 2 <= {self.radius**2}
            )
        """

    def counts(self) -> dict[str, int]:
        """How many detections are new, lost, and common."""
        ask = self.new.ask
        ((new,),) = ask(f"select count(*) from ({self.unmatched(self.new, self.old)})")
        ((lost,),) = ask(f"select count(*) from ({self.unmatched(self.old, self.new)})")
        ((total,),) = ask("select count(*) from detections{s} join strips_old using (path)")
        return {"new": new, "lost": lost, "common": total - new}

    def places(self, mine: Judged, other: Judged, count: int) -> list[Place]:
        """The strongest detections of one job that the other one does not have."""
        rows = self.new.ask(
            f"select path, y, x, margin from ({self.unmatched(mine, other)}) "
            "order by margin desc, path, y, x limit ?",
            count,
        )
        return [Place(*row) for row in rows]

    def flips(self) -> list[tuple]:
        """Of each folder: strips that both have, OK now and before, NG both, flips either way."""
        return self.new.ask("""
            select n.folder, count(*), count_if(n.verdict = 'OK' and o.verdict = 'OK'),
                count_if(n.verdict = 'NG' and o.verdict = 'NG'),
                count_if(n.verdict = 'NG' and o.verdict = 'OK'),
                count_if(n.verdict = 'OK' and o.verdict = 'NG')
            from strips{s} n join strips_old o using (path) group by n.folder order by n.folder
        """)

    def bought(self, score: float) -> tuple[int, int]:
        """How many strips that are NG before and OK now there are, and how many reach `score`."""
        ((lost, back),) = self.new.ask(
            "select count(*), count_if(n.score >= ?) from strips{s} n join strips_old o "
            "using (path) where n.verdict = 'OK' and o.verdict = 'NG'",
            score,
        )
        return lost, back


def open_judged(locations: Sequence[Path | str | None]) -> list[Judged]:
    """The job to report on, and the one before where its location is not None."""
    database, suffixes = duckdb.connect(), ("", "_old")
    return [
        Judged(database, OutputFolder(place), suffix)
        for place, suffix in zip(locations, suffixes)
        if place is not None
    ]


def quoted(text: str) -> str:
    """A text as it stands between the quotes of an SQL literal."""
    return text.replace("'", "''")
