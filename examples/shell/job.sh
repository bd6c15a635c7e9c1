#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Two files, one answer: how many patients both have, and the sum of their ages.
# usage: job.sh A.csv B.csv REPORT
set -eu
export LC_ALL=C

# How many patients of each age: "AGE COUNT", sorted for join. Without a value in any message: the host sees those.
ages() {
    awk -F, '
        { sub(/\r$/, "") }
        NR == 1 { for (i = 1; i <= NF; i++) if ($i == "age") column = i }
        NR == 1 && !column { print "no column age" > "/dev/stderr"; bad = 1; exit 1 }
        NR > 1 && $column !~ /^[0-9]+$/ { print "an age is no number" > "/dev/stderr"; bad = 1; exit 1 }
        NR > 1 { count[$column + 0]++ }
        END { if (!bad) for (age in count) print age, count[age] }
    ' "$1" >"$work/$2.unsorted"
    sort "$work/$2.unsorted" >"$work/$2"
}

work=$(mktemp -d)
ages "$1" a
ages "$2" b
join -a 1 -a 2 -e 0 -o 0,1.2,2.2 "$work/a" "$work/b" |
    awk '{ patients += $2 + $3; sum += $1 * ($2 + $3) }
         END { printf "{\"patients\":%d,\"age_sum\":%d}\n", patients, sum }' >"$3"
