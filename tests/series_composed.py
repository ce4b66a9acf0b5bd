"""Series descriptions as hospitals of many countries and vendors write them, composed by us, with what they are.

`FIRST` was composed before the rules of this version were written, `SECOND` after they were finished; both were
left alone thereafter. "-" is a series that must not be taken.
"""

FIRST = """
T1 tra ohne KM | T1
T1 tra nach KM | T1C
t1_mprage_sag_p2_iso_nativ | T1
t1_mprage_tra_p2_iso_KM | T1C
T1w axial vor Kontrastmittel | T1
T1 TSE transversal nach Gadovist | T1C
t1_fl2d_tra_fs_post_KM | T1C
T2 TSE axial Kopf | T2
T2 tra 3 mm Schädel | T2
FLAIR tra | FLAIR
t2_spc_da-fl_sag_p2_iso | FLAIR
t2_space_dark-fluid_sag_p2_iso_fs | FLAIR
T2W_FLAIR_longTR_CLEAR | FLAIR
Übersicht 3 Ebenen | -
Vorläufer Localizer | -
Subtraktion T1 KM-nativ | -
HWS T2 sag | -
Diffusion tra b1000 | -
ep2d_diff_b0_b500_b1000_TRACEW | -
T2* FFE Hämo | -
AX T1 SANS INJECTION | T1
AX T1 SE AVEC GADO | T1C
T1 3D GADO | T1C
AX T1 INJ | T1C
SAG T1 SANS IV | T1
AX T2 FRFSE | T2
AXIAL T2 FLAIR CERVEAU | FLAIR
REPERAGE 3 PLANS | -
DIFFUSION B1000 AXIALE | -
PERFUSION T2* GADO | -
ANGIO VEINEUSE 3D PC | -
AX ECHO DE GRADIENT T2 | -
T1 AXIAL SIN CONTRASTE | T1
T1 AXIAL CON CONTRASTE | T1C
T1 3D CIV | T1C
AX T1 SE CON GADOLINIO | T1C
AX T2 TSE CRANEO | T2
FLAIR AXIAL | FLAIR
LOCALIZADOR | -
DIFUSION | -
COEFICIENTE DE DIFUSION APARENTE | -
PERFUSION CEREBRAL | -
ASS T1 SE SENZA MDC | T1
ASS T1 SE CON MDC | T1C
T1 3D MDC | T1C
ASS T2 TSE ENCEFALO | T2
SAG FLAIR 3D CUBE | FLAIR
CENTRATURA | -
DIFFUSIONE | -
T1 AXIAL PRE CONTRASTE | T1
T1 AXIAL POS CONTRASTE | T1C
AX T1 POS GD | T1C
CORTE AXIAL T2 | T2
DIFUSAO AXIAL | -
LOCALIZADORES | -
T1 TRA ZONDER CONTRAST | T1
T1 TRA MET CONTRAST | T1C
T1 TSE tra na contrast | T1C
T2 TSE TRA | T2
FLAIR TRA 4MM | FLAIR
diffusie | -
T1 AX BEZ KONTRASTU | T1
T1 AX PO KONTRASCIE | T1C
T1 SE TRA Z KONTRASTEM | T1C
T2 TSE TRA GLOWA | T2
DYFUZJA | -
T1 AKSIYEL KONTRASTSIZ | T1
T1 AKSIYEL KONTRASTLI | T1C
T2 AKSIYEL TSE | T2
DIFUZYON | -
T1 аксиальная | T1
T1 ВИ с контрастом | T1C
T1 ВИ без контраста | T1
Т2 ВИ аксиальная | T2
диффузия | -
T1WI 轴位 平扫 | T1
T1WI 轴位 增强 | T1C
T1 矢状位 增强扫描 | T1C
T2WI 横断位 | T2
T2 FLAIR 轴位 | FLAIR
黑水像 轴位 | FLAIR
定位像 | -
弥散加权 | -
灌注成像 | -
磁敏感加权 | -
三维时间飞跃 血管 | -
T1 軸位 對比劑後 | T1C
T1 軸位 注射前 | T1
T1 造影後 axial | T1C
T1 単純 axial | T1
T2強調 横断 | T2
位置決め | -
拡散強調 | -
T1 조영증강 축상 | T1C
T1 조영전 | T1
T2 축상 | T2
확산강조 | -
+C Ax T1 FSPGR BRAVO | T1C
Sag 3D T1 BRAVO | T1
Ax 3D BRAVO POST | T1C
Sag T1 FLAIR | T1
AX T1 FLAIR PROPELLER | T1
+C AX T1 FLAIR FS | T1C
Ax T2 PROPELLER FS | T2
AX T2 FLAIR FS +C | FLAIR
Ax CUBE T2 FLAIR POST | FLAIR
3D Ax SWAN | -
Ax 3D ASL (non-contrast) | -
Ax DWI ALL b-1000 | -
FILT_PHA: Ax SWAN | -
Ax LAVA Flex +C | T1C
WATER: Ax T1 IDEAL +C | T1C
FAT: Ax T1 IDEAL +C | -
Ax MERGE | -
ORIG Ax SWAN | -
T1W_3D_TFE_SENSE | T1
sT1W_3D_TFE_CE | T1C
T1W_TSE_CE_TRA | T1C
3D_Brain_VIEW_T2 | T2
3D_Brain_VIEW_FLAIR_SHC | FLAIR
VISTA_FLAIR | FLAIR
T2W_FFE | -
SWIp | -
DWI_SSh | -
dDWI_b1000 | -
B-FFE_XD | -
T1W_IR_TSE | T1
isoADC | -
dADC | -
sDWI_SSh_b0 | -
s3DI_MC_HR | -
WIP DTI_high_32dir | -
t1_vibe_dixon_tra_p4_W | T1
t1_vibe_dixon_tra_p4_F | -
t1_vibe_dixon_tra_opp | -
t1_tse_dixon_tra_KM_W | T1C
t1_mp2rage_sag_INV1 | -
t1_mp2rage_sag_UNI_Images | T1
t1_mp2rage_sag_T1_Images | -
t1_space_sag_p2_iso_KM | T1C
t1_mprage_cor_MPR | -
t2_tse_tra_512_blade | T2
t2_fl2d_tra_hemo | -
t2_swi_tra_p2_1.5mm | -
tof_fl3d_tra_p2_multi-slab | -
ep2d_perf_p2_rCBV | -
ep2d_pace_rest_fMRI | -
gre_field_mapping_2mm | -
svs_se_135 | -
AAHead_Scout_64ch-head-coil | -
Phoenix Document | -
t1_gre_fsp_3d_sag_iso | T1
t2_fse_tra_fluid_matrix_flair | FLAIR
matrix_t2_flair_sag_fs | FLAIR
epi_dwi_tra_b1000 | -
T1 FASE 3D | T1
FSE T2 AX 256 | T2
DYNAMIC T1 PITUITARY POST | -
T2 ORBITS FS COR | -
MRA COW 3D TOF | -
AX STIR BRAIN | -
DIR_SPACE sag | -
PD TSE tra | -
Ax PD T2 dual echo | -
T1 MT tra KM | T1C
magnitude image | -
T1 map | -
synthetic T2 FLAIR | -
SyMRI T1W | -
QSM | -
Stealth T1 post contrast 1mm | T1C
BRAINLAB T1 GD | T1C
Navigation T1 mprage +KM | T1C
T1 GK planning gad | T1C
Bolus tracking | -
TRUFI sag | -
""".strip()
