# Completion of gantry for bash: source <(gantry completion bash)
_gantry() {
    local line cur value
    local -a words
    # Not COMP_WORDS, which are cut at = and : too.
    read -ra words <<<"${COMP_LINE:0:COMP_POINT}"
    [[ ${COMP_LINE:0:COMP_POINT} == *[[:space:]] ]] && words+=("")
    cur=${words[-1]}
    COMPREPLY=()
    while IFS= read -r line; do
        if [[ $line == :files ]]; then
            compopt -o default -o filenames 2>/dev/null
            return
        fi
        value=${line%%$'\t'*}
        # Readline replaces only what comes after the last of its own separators.
        if [[ $cur == *=* ]]; then
            value=${value#"${cur%%=*}="}
        fi
        COMPREPLY+=("$value")
    done < <("$1" __complete -- "${words[@]:1}" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[/=,] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -F _gantry gantry
