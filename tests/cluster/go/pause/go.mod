// What holds a pod's network namespace open.
module minichat.dev/tests/pause

go 1.26.0
