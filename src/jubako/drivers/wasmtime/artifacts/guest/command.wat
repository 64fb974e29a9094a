;; Makes a command of QuickJS's reactor build: _start reads the command line, puts words of its own before it, and
;; hands it to the engine, whose memory it shares. The words in "@" are filled in where this is compiled.
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "engine" "memory" (memory 1))
  (import "engine" "malloc" (func $engine_malloc (param i32) (result i32)))
  (import "engine" "qjs_init_argv" (func $run (param i32 i32) (result i32)))
  (export "memory" (memory 0))

  (data $texts "@TEXTS@")

  (func $malloc (param $size i32) (result i32)
    (local $place i32)
    (local.set $place (call $engine_malloc (local.get $size)))
    (if (i32.eqz (local.get $place)) (then (call $exit (i32.const 70))))
    (local.get $place))

  (func $check (param $errno i32)
    (if (local.get $errno) (then (call $exit (i32.const 71)))))

  (func (export "_start")
    (local $sizes i32) (local $count i32) (local $words i32) (local $texts i32)
    (local.set $sizes (call $malloc (i32.const 8)))
    (call $check (call $args_sizes (local.get $sizes) (i32.add (local.get $sizes) (i32.const 4))))
    (local.set $count (i32.load (local.get $sizes)))
    ;; Room for our words, theirs, and the null at the end.
    (local.set $words
      (call $malloc (i32.shl (i32.add (local.get $count) (i32.const @ROOM@)) (i32.const 2))))
    (local.set $texts (call $malloc (i32.const @SIZE@)))
    (memory.init $texts (local.get $texts) (i32.const 0) (i32.const @SIZE@))
    (data.drop $texts)
@STORES@
    (call $check
      (call $args
        (i32.add (local.get $words) (i32.const @OURS@))
        (call $malloc (i32.load offset=4 (local.get $sizes)))))
    (local.set $count (i32.add (local.get $count) (i32.const @COUNT@)))
    (i32.store (i32.add (local.get $words) (i32.shl (local.get $count) (i32.const 2))) (i32.const 0))
    (call $exit (i32.ne (call $run (local.get $count) (local.get $words)) (i32.const 0))))
)
